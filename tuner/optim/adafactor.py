"""Adafactor (Shazeer & Stern 2018): the second moment of a matrix as a row and a column, no first moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .one_by_one import OneByOne

EPS = torch.finfo(torch.float32).eps
"""Least size of an estimate's root and of a mean of a row, as in torch.optim.Adafactor."""


class AdafactorSteps(OneByOne):
    """Adafactor as `torch.optim.Adafactor` computes it, but convolutions are matrices of (out, in x height x width).

    torch factors a 3x3 kernel itself, which remembers two thirds of a number for each weight.

    Args:
        groups, seed, in_backward: as in the base class; `weight_decay` by group.
        beta2_decay: the second moment forgets as step**beta2_decay.
        clip: largest root mean square of an update before the learning rate.
        scaled: whether the learning rate is relative to the parameter's root mean square.
        least: the smallest such root mean square that counts.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        beta2_decay: float,
        clip: float,
        scaled: bool,
        least: float,
        seed: int,
        in_backward: bool,
    ) -> None:
        super().__init__(groups, seed=seed, in_backward=in_backward)
        self.beta2_decay, self.clip, self.scaled, self.least = beta2_decay, clip, scaled, least

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        if p.dim() < 2:
            return {"variance": torch.zeros(p.shape, device=p.device)}
        rows, columns = p.flatten(1).shape
        return {
            "row_var": torch.zeros(rows, 1, device=p.device),
            "col_var": torch.zeros(1, columns, device=p.device),
        }

    def move(
        self, value: Tensor, grad: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        step, lr = state["step"], group["lr"]
        new_share = step**self.beta2_decay
        after: dict[str, Tensor]
        if value.dim() < 2:
            variance = state["variance"].lerp(grad * grad, new_share)
            after, estimate = {"variance": variance}, variance
        else:
            square = (grad * grad).flatten(1)
            row = state["row_var"].lerp(square.mean(1, keepdim=True), new_share)
            column = state["col_var"].lerp(square.mean(0, keepdim=True), new_share)
            after = {"row_var": row, "col_var": column}
            estimate = (row @ column / row.mean().clamp(min=EPS)).view_as(grad)
        update = estimate.clamp(min=EPS * EPS).rsqrt() * grad
        size = torch.clamp(step.rsqrt(), max=lr)
        if self.scaled:
            size = size * _rms(value).clamp(min=self.least)
        update = update / (_rms(update) / self.clip).clamp(min=1.0)
        return value * (1 - lr * group["weight_decay"]) - size * update, after


def _rms(value: Tensor) -> Tensor:
    return value.norm(2) / value.numel() ** 0.5
