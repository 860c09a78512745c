"""From a step number to tensors: everything random about a step is drawn here, before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from ..types import Batch, Draw, Role

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from ..draws import Draws
    from ..types import Cond, Posterior, Tokens
    from .encoder_dropout import EncoderDropout
    from .order import Bucket, MicroBatch, Order, Visit
    from .scan import Example


@dataclass(frozen=True, slots=True)
class Look:
    """One look at one picture: what its latents depend on."""

    example: Example
    bucket: Bucket
    flip: bool
    ids: tuple[str | int, ...]
    """Key of everything random about this look: role, uid, epoch, repeat."""


class Pictures(Protocol):
    """Gives posteriors: from the cache, or by encoding on the spot."""

    def posteriors(self, looks: Sequence[Look]) -> Posterior:
        """Mean and log-variance, both (B, C, h, w)."""
        ...


Texts = Callable[[Sequence[str]], "Cond | Tokens"]
"""From captions to what a Batch carries: cached embeddings, or token ids where a text encoder trains."""


@dataclass(frozen=True, slots=True)
class Recital:
    """How captions are chosen, and what reads them."""

    dropout: float
    """Share of visits that see the empty caption."""
    mirrored: Mapping[str, str]
    """The one caption of each role that mirrors another's pictures."""
    encoders: EncoderDropout | None = None
    """Leaves text encoders out of a batch; None leaves out none."""

    def caption(self, role: Role, example: Example, draws: Draws, ids: tuple[str | int, ...]) -> str:
        if self.dropout and draws.uniform("caption_dropout", *ids) < self.dropout:
            return ""
        if role.mirrors:
            return self.mirrored[role.name]
        captions, weights = example.captions, example.caption_weights
        if len(captions) == 1:
            return captions[0]
        if not weights:
            return captions[draws.below(len(captions), "caption", *ids)]
        place = draws.uniform("caption", *ids) * sum(weights)
        ends = [end for end in accumulate(weights) if end <= place]
        return captions[min(len(ends), len(captions) - 1)]


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """Micro-batches of a step, each made when its turn comes: a large step must not be in memory as a whole."""

    parts: Sequence[MicroBatch]
    make: Callable[[MicroBatch], Batch]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.make, self.parts)

    def __getitem__(self, index: int) -> Batch:
        return self.make(self.parts[index])


class Batches:
    """The micro-batches of each step that belong to this process.

    Args:
        order: which units make up a step.
        roles: the blocks of a batch, in order.
        examples: by role that has pictures.
        pictures, texts, recital: where latents and captions come from.
        needs: the objective's draws.
        draws: the run's randomness.
        flip: whether half of the visits see the mirrored picture.
        process: this process's rank and the number of processes.
    """

    def __init__(
        self,
        order: Order,
        roles: Sequence[Role],
        examples: Mapping[str, Sequence[Example]],
        sources: tuple[Pictures, Texts, Recital],
        needs: Mapping[str, Draw],
        draws: Draws,
        *,
        flip: bool = False,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        self.order, self.roles, self.examples, self.needs, self.draws = order, tuple(roles), examples, needs, draws
        self.pictures, self.texts, self.recital = sources
        self.flip, self.process = flip, process

    def __getitem__(self, step: int) -> MicroBatches:
        """This process's micro-batches of a step, on the CPU. Empty where other processes have all of a short step."""
        micro_batches = self.order.step(step)
        totals = {role.name: 0.0 for role in self.roles}
        for micro in micro_batches:
            for unit in micro.units:
                for role in self.roles:
                    totals[role.name] += self._example(role, unit)[0].weight
        rank, count = self.process
        return MicroBatches(micro_batches[rank::count], lambda micro: self._batch(micro, totals))

    def names(self, step: int) -> list[str]:
        """Files that a step looks at, for messages."""
        return sorted(
            {
                self._example(role, unit)[0].name
                for micro in self.order.step(step)
                for unit in micro.units
                for role in self.roles
            }
        )

    def _example(self, role: Role, unit: Mapping[str, Visit]) -> tuple[Example, Visit, str]:
        """The example, its visit, and the role that its randomness is keyed by."""
        home = role.mirrors or role.beside or role.name
        visit = unit[home]
        return self.examples[role.mirrors or role.name][visit.index], visit, home

    def _batch(self, micro: MicroBatch, totals: Mapping[str, float]) -> Batch:
        import torch

        looks: list[Look] = []
        captions: list[str] = []
        weights: list[float] = []
        for role in self.roles:
            for unit in micro.units:
                example, visit, home = self._example(role, unit)
                ids = (home, example.uid, visit.epoch, visit.repeat)
                flip = self.flip and self.draws.uniform("flip", *ids) < 0.5
                looks.append(Look(example, micro.bucket, flip, ids))
                captions.append(self.recital.caption(role, example, self.draws, ids))
                weights.append(example.weight / totals[role.name])
        posterior = self.pictures.posteriors(looks)
        mean = posterior.mean  # (B, C, h, w)
        shape = tuple(mean.shape[1:])
        ids_of_all = [look.ids for look in looks]
        epsilon = self._stack("posterior", Draw("normal", "latent"), shape, ids_of_all)
        latents = mean + (0.5 * posterior.logvar).exp() * epsilon.to(mean.device)
        drawn = {name: self._stack(name, draw, shape, ids_of_all) for name, draw in self.needs.items()}
        text = self.texts(captions)
        if self.recital.encoders:
            text = self.recital.encoders(text, self.draws, ids_of_all)
        return Batch(latents, drawn, text, torch.tensor(weights, dtype=torch.float32), self.roles)

    def _stack(
        self, purpose: str, draw: Draw, shape: tuple[int, ...], ids: Sequence[tuple[str | int, ...]]
    ) -> torch.Tensor:
        """One draw an example, stacked: (B, ...) float32."""
        import numpy as np
        import torch

        return torch.from_numpy(np.stack([one_draw(self.draws, purpose, draw, shape, key) for key in ids]))


def one_draw(
    draws: Draws, purpose: str, draw: Draw, shape: tuple[int, ...], ids: tuple[str | int, ...]
) -> NDArray[np.float32]:
    """The random numbers of one example whose latents have `shape`, (C, h, w)."""
    import numpy as np

    full = {"latent": shape, "channel": (shape[0], 1, 1), "scalar": ()}[draw.shape]
    generator = draws.generator(purpose, *ids)
    draw_all = generator.standard_normal if draw.kind == "normal" else generator.random
    return np.asarray(draw_all(full, dtype=np.float32))


class TokenTexts:
    """Token ids of captions, each tokenised once."""

    def __init__(self, tokenize: Callable[[Sequence[str]], Tokens]) -> None:
        self.tokenize = tokenize
        self.known: dict[str, Mapping[str, Tensor]] = {}

    def __call__(self, captions: Sequence[str]) -> Tokens:
        import torch

        from ..types import Tokens

        for caption in captions:
            if caption not in self.known:
                self.known[caption] = self.tokenize([caption]).ids
        rows = [self.known[caption] for caption in captions]
        return Tokens({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
