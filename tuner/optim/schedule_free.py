"""Schedule-free AdamW (Defazio et al. 2024): an average of the weights takes the place of a falling learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .flat import Flat
from .shown import Shown


class ScheduleFreeSteps(Flat):
    """AdamW on the sequence z, with gradients taken at y, between z and its average x (algorithm 1).

    The parameters are y; x = y + (1 - 1 / beta1) (z - y) is never kept.

    Args:
        groups, seed, in_backward: as in the base class; `weight_decay` by group, towards 0 from y.
        betas: share of x in y, which takes the place of momentum, and decay rate of the second moment.
        eps: added to the denominator.
    """

    common = Flat.common | {"lr_max", "weight_sum"}

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], eps: float, seed: int, in_backward: bool
    ) -> None:
        super().__init__(groups, seed=seed, in_backward=in_backward)
        self.betas, self.eps = betas, eps

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros((), device=p.device)
        return {
            "z": p.detach().to(torch.float32, copy=True),
            "exp_avg_sq": torch.zeros(p.shape, device=p.device),
            "lr_max": zero,
            "weight_sum": zero.clone(),
        }

    def move(
        self, value: Tensor, grad: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = self.betas
        lr, z = group["lr"], state["z"]
        highest = state["lr_max"].clamp(min=lr)
        # What a warm-up's steps weigh in the average: the square of the rate (sec. 4 there).
        total = state["weight_sum"] + highest.square()
        share = highest.square() / total
        square = state["exp_avg_sq"] * second + grad * grad * (1 - second)
        left = -torch.expm1(state["step"] * math.log(second))  # 1 - second ** step, exact where it is small
        away = grad / ((square / left).sqrt() + self.eps) + group["weight_decay"] * value
        new = value + share * (z - value) + lr * (first * (1 - share) - 1) * away
        return new, {"z": z - lr * away, "exp_avg_sq": square, "lr_max": highest, "weight_sum": total}

    def average(self, p: Tensor) -> Tensor:
        """X of a parameter, float32."""
        y = p.detach().float()
        return y.lerp(self.state[p]["z"], 1 - 1 / self.betas[0]) if p in self.state else y


class Averaged(Shown):
    """x of every parameter, worked out when it is asked for."""

    name = "schedule_free"
    words = "the averaged weights (schedule-free)"

    def __init__(self, live: Mapping[str, Tensor], optimizer: ScheduleFreeSteps) -> None:
        super().__init__(live)
        self.optimizer = optimizer

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return _Lazy(self.live, self.optimizer)


class _Lazy(Mapping[str, Tensor]):
    """One tensor at a time: a whole model once more has no room on a GPU."""

    def __init__(self, live: Mapping[str, Tensor], optimizer: ScheduleFreeSteps) -> None:
        self.live, self.optimizer = live, optimizer

    def __getitem__(self, name: str) -> Tensor:
        return self.optimizer.average(self.live[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.live)

    def __len__(self) -> int:
        return len(self.live)
