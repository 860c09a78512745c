"""The loss on held-out pictures: eight noise levels, always the same noise, and no trace left in the training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .best import LEVELS, Measured
from .data.batches import Look, one_draw
from .samples import at_rest
from .types import Batch, Draw, Role

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .data.held_out import HeldOut
    from .data.scan import Example
    from .draws import Draws
    from .student import Student
    from .training import Training


@dataclass(frozen=True)
class Validator:
    """Measures one set of held-out pictures."""

    held_out: HeldOut
    needs: Mapping[str, Draw]
    """The objective's draws; all but `level` are those of the picture."""
    draws: Draws
    device: torch.device
    rows: int = LEVELS
    """Levels in one forward pass, at most."""

    def measure(self, student: Student, training: Training) -> Measured:
        """The unweighted squared error of the weights that the run would save, averaged ones where there are some.

        A pure function of these weights: no generator, mode or raw weight is another one afterwards.
        """
        import torch

        with at_rest(training), torch.no_grad():
            losses = torch.stack([self._losses(student, example) for example in self.held_out.examples])  # (N, LEVELS)
        levels = losses.cpu().double().mean(0).tolist()
        return Measured(sum(levels) / LEVELS, tuple(levels))

    def facts(self, *, weights: str) -> dict[str, Any]:
        """What a value depends on besides the weights, and which `weights` these are: raw, or averaged in some way."""
        held = self.held_out
        rows = [f"{e.uid} {held.sizes[e.uid]} {self._caption(e)}" for e in held.examples]
        return {
            "pictures": len(rows),
            "sha256": hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest(),
            "levels": LEVELS,
            "seed": self.draws.seed,
            "weights": weights,
        }

    def _losses(self, student: Student, example: Example) -> Tensor:
        """(LEVELS,) one picture alone: with whom it shares a forward pass would show in the last bits."""
        import torch

        levels = (torch.arange(LEVELS, dtype=torch.float32) + 0.5) / LEVELS
        return torch.cat([self._errors(student, self._batch(example, part)) for part in levels.split(self.rows)])

    def _errors(self, student: Student, batch: Batch) -> Tensor:
        import torch

        noised = student.objective.corrupt(batch.to(self.device))
        plain = replace(noised, weight=torch.ones_like(noised.weight))
        return plain.losses(student.predict(plain, batch.text.to(self.device)))

    def _batch(self, example: Example, levels: Tensor) -> Batch:
        """One picture at (B,) levels under the same noise, on the CPU."""
        import torch

        held, count = self.held_out, len(levels)
        ids = self._ids(example)
        posterior = held.pictures.posteriors([Look(example, held.sizes[example.uid], flip=False, ids=ids)])
        shape = tuple(posterior.mean.shape[1:])
        needs = {**self.needs, "posterior": Draw("normal", "latent")}
        drawn = {name: torch.from_numpy(one_draw(self.draws, name, draw, shape, ids)) for name, draw in needs.items()}
        latents = posterior.mean + (0.5 * posterior.logvar).exp() * drawn.pop("posterior")
        same = {name: value.expand(count, *value.shape) for name, value in drawn.items()}
        return Batch(
            latents.expand(count, *shape),
            {**same, "level": levels},
            held.texts([self._caption(example)] * count),
            torch.full((count,), 1 / count),
            (Role("validation"),),
        )

    def _ids(self, example: Example) -> tuple[str | int, ...]:
        return "validation", example.uid

    def _caption(self, example: Example) -> str:
        return self.held_out.recital.caption(Role("validation"), example, self.draws, self._ids(example))
