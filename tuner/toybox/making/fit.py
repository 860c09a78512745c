"""The loop that trains a model of the toybox, with its state on disk so that an interruption costs minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ... import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

MINUTES = 4
"""Between two states on disk."""
REPORT = 50
"""Steps between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how fast a model learns."""

    steps: int
    lr: float
    batch: int = 32
    warmup: int = 100
    decay: float = 0.3
    """Share of the steps, at the end, over which the learning rate falls to 0."""
    weight_decay: float = 0.01
    ema: float = 0.999
    """Decay of the average that is kept in the end; its first steps count less (Karras et al. 2024, appendix A)."""

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0: warm up, hold, fall linearly."""
        falling = self.steps * self.decay
        return self.lr * min(1.0, (step + 1) / self.warmup, (self.steps - step) / max(1.0, falling))


def fit(module: nn.Module, loss: Callable[[int], Tensor], course: Course, folder: Path) -> None:
    """Train every parameter of `module`, from the newest state in `folder`; on return it holds the averaged weights.

    Args:
        module: what learns.
        loss: of step n, a scalar; its randomness comes from n alone, so that going on is the same as never stopping.
        course: steps and rates. More steps than the state has seen are trained on.
        folder: for the states.
    """
    live = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        live.values(), course.lr, betas=(0.9, 0.99), weight_decay=course.weight_decay, fused=True
    )
    average = {name: p.detach().clone() for name, p in live.items()}
    start = _resume(folder, live, average, optimizer)
    saved = told = time.monotonic()
    total = torch.zeros(())
    module.train()
    for step in range(start, course.steps):
        for group in optimizer.param_groups:
            group["lr"] = course.rate(step)
        value = loss(step)
        value.backward()
        torch.nn.utils.clip_grad_norm_(list(live.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _follow(average, live, min(course.ema, (step + 1) / (step + 10)))
        total += value.detach()
        if (step + 1) % REPORT == 0:
            now = time.monotonic()
            print(f"{folder.name}: step {step + 1}/{course.steps}  loss {float(total) / REPORT:.4f}  "  # noqa: T201
                  f"{(now - told) / REPORT:.2f} s/step", flush=True)  # fmt: skip
            told, total = now, torch.zeros(())
        if time.monotonic() - saved > 60 * MINUTES or step + 1 == course.steps:
            _save(folder, step + 1, live, average, optimizer)
            saved = time.monotonic()
    module.load_state_dict(average, strict=False)
    module.eval()


@torch.no_grad()
def _follow(average: dict[str, Tensor], live: dict[str, nn.Parameter], decay: float) -> None:
    torch._foreach_lerp_(  # type: ignore[attr-defined]
        list(average.values()), [p.detach() for p in live.values()], 1 - decay
    )


def _save(
    folder: Path, step: int, live: dict[str, nn.Parameter], average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    groups = {"live": {name: p.detach().clone() for name, p in live.items()}, "average": dict(average)}
    for key in ("exp_avg", "exp_avg_sq"):
        groups[key] = {name: optimizer.state[p][key] for name, p in live.items()}
    checkpoint.save(folder, checkpoint.State(step, groups), keep=2)


def _resume(
    folder: Path, live: dict[str, nn.Parameter], average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Load the newest state that verifies; the steps that it has seen."""
    state, rejected = checkpoint.newest(folder)
    for line in rejected:
        print(line)  # noqa: T201
    if state is None:
        return 0
    with torch.no_grad():
        for name, p in live.items():
            p.copy_(state.tensors["live"][name])
            average[name].copy_(state.tensors["average"][name])
            optimizer.state[p] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": state.tensors["exp_avg"][name].clone(memory_format=torch.preserve_format),
                "exp_avg_sq": state.tensors["exp_avg_sq"][name].clone(memory_format=torch.preserve_format),
            }
    return state.step
