"""Prodigy (Mishchenko & Defazio 2024): Adam whose step size is an estimate of how far the weights have to go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .flat import Flat, Stretch

SHARED = -1
"""Index of a state that is of no parameter: what is remembered of all of them together."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How the estimate d grows."""

    start: float
    coefficient: float
    rate: float
    """Most that it grows in a step, as a factor."""
    warm: bool
    """Whether a rate that is still warming up is left out of what d is divided by."""


class ProdigySteps(Flat):
    """Prodigy as published (algorithm 4), with decoupled weight decay; d is one number for all parameters.

    A group's learning rate is a multiple of d. Where groups differ, one whose rate is c times the largest is measured
    in units of c: its gradients count c times and the way it has come a c-th, which is the published rule after the
    parameters' substitution p = c q.

    Args:
        groups, seed: as in the base class; `weight_decay` by group.
        betas: decay rates of the moments; that of d's own sums is the root of the second.
        eps: added to the denominator, times d.
        growth: of d.
        corrected: whether the first steps' rate is corrected for moments that began as zeros.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        growth: Growth,
        corrected: bool,
        seed: int,
    ) -> None:
        super().__init__(groups, seed=seed, in_backward=False)
        self.betas, self.eps, self.growth, self.corrected = betas, eps, growth, corrected
        self.shared: dict[str, Tensor] = {}

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros(p.shape, device=p.device)
        start = p.detach().to(torch.float32, copy=True)
        return {"exp_avg": zero, "exp_avg_sq": zero.clone(), "s": zero.clone(), "start": start}

    def move(
        self, value: Tensor, grad: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What of its state changes, before d is known; the value moves after it, in `_step`."""
        first, second = self.betas
        d, unit, rate = self.shared["d"], group["lr"] / self.lr, self.rate()
        weight = d / self.growth.start * (d if self.growth.warm else rate)
        return value, {
            "exp_avg": state["exp_avg"] * first + grad * (d * (1 - first)),
            "exp_avg_sq": state["exp_avg_sq"] * second + grad * grad * (d * d * (1 - second)),
            "s": state["s"] * math.sqrt(second) + grad * (unit * weight),
        }

    @property
    def lr(self) -> float:
        """The largest rate of a group now."""
        return max(group["lr"] for group in self.param_groups)

    def rate(self) -> Tensor:
        """Size of a step."""
        rate = self.shared["d"] * self.lr
        if not self.corrected:
            return rate
        first, second = self.betas
        step = self.shared["step"] + 1
        return rate * torch.expm1(step * math.log(second)).neg().sqrt() / -torch.expm1(step * math.log(first))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        stretches = self.stretches()
        if stretches:
            self._step(stretches)
        self.calls += 1

    def _step(self, stretches: Sequence[Stretch]) -> None:
        if not self.shared:
            zero = torch.zeros((), device=stretches[0].members[0].device)
            d = zero + self.growth.start
            self.shared = {"d": d, "d_max": d.clone(), "numerator": zero, "step": zero.clone()}
        rate = self.rate()
        gained, denominator = self._gathered(stretches, rate)
        idle = denominator == 0 if self.found_inf is None else (denominator == 0) | (self.found_inf > 0)
        self._grow(gained, denominator, idle)
        for stretch in stretches:
            value, state, group = stretch.values().float(), stretch.state, stretch.group
            size = rate * (group["lr"] / self.lr)
            move = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + self.shared["d"] * self.eps)
            # One rounding at the end: 1 - decay x rate has few digits left while the rate is tiny.
            new = torch.where(idle, value, value - size * (move + group["weight_decay"] * value))
            self.put(stretch, new, idle.float())

    def _gathered(self, stretches: Sequence[Stretch], rate: Tensor) -> tuple[Tensor, Tensor]:
        """What this step adds to d's numerator, and its denominator, once the moments are up to date."""
        gained, denominator = torch.zeros_like(rate), torch.zeros_like(rate)
        for stretch in stretches:
            old, grad = stretch.values().float(), stretch.gradients()
            gained += self.shared["d"] / self.growth.start * rate * torch.dot(grad, stretch.state["start"] - old)
            _, after = self._moved(old, grad, stretch.state, stretch.group, self.found_inf)
            self.keep(stretch, after)
            denominator += stretch.state["s"].abs().sum()
        return gained, denominator

    def _grow(self, gained: Tensor, denominator: Tensor, idle: Tensor) -> None:
        d, d_max = self.shared["d"], self.shared["d_max"]
        numerator = self.shared["numerator"] * math.sqrt(self.betas[1]) + gained
        found = self.growth.coefficient * numerator / denominator
        grown = torch.where(d == self.growth.start, torch.maximum(d, found), d)
        highest = torch.maximum(d_max, found)
        after = {
            "d": torch.minimum(highest, grown * self.growth.rate),
            "d_max": highest,
            "numerator": numerator,
            "step": self.shared["step"] + 1,
        }
        self.shared = {name: torch.where(idle, self.shared[name], value) for name, value in after.items()}

    def state_dict(self) -> dict[str, Any]:
        tree = super().state_dict()
        if self.shared:
            tree["state"][SHARED] = {name: value.clone() for name, value in self.shared.items()}
        return tree

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        own = dict(state_dict["state"])
        shared = own.pop(SHARED, {})
        super().load_state_dict({**state_dict, "state": own})
        device = next(iter(self.places)).device
        self.shared = {name: value.to(device, copy=True) for name, value in shared.items()}


class Estimate:
    """A gauge of what Prodigy found: d, or the learning rate that it comes to.

    Args:
        name: of the number.
        times_lr: whether d is multiplied with the learning rate.
    """

    def __init__(self, name: str, optimizer: ProdigySteps, *, times_lr: bool) -> None:
        self.name, self.optimizer, self.times_lr = name, optimizer, times_lr
        self._open = False

    def begin(self) -> None:
        self._open = True

    def end(self) -> Tensor | None:
        opened, self._open = self._open, False
        if not opened or not self.optimizer.shared:
            return None
        return self.optimizer.shared["d"] * (self.optimizer.lr if self.times_lr else 1.0)
