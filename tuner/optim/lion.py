"""Lion (Chen et al. 2023): the sign of an average of the gradients, and one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .flat import Flat


class LionSteps(Flat):
    """Lion as published (algorithm 2).

    Args:
        groups, seed, in_backward: as in the base class; `weight_decay` by group.
        betas: share of the moment in what decides the sign, and of the moment that is kept.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], seed: int, in_backward: bool
    ) -> None:
        super().__init__(groups, seed=seed, in_backward=in_backward)
        self.betas = betas

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros(p.shape, device=p.device)}

    def move(
        self, value: Tensor, grad: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = self.betas
        mean, lr = state["exp_avg"], group["lr"]
        sign = (mean * first + grad * (1 - first)).sign()
        new = value * (1 - lr * group["weight_decay"]) - lr * sign
        return new, {"exp_avg": mean * second + grad * (1 - second)}
