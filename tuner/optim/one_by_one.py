"""Optimizers that update parameter by parameter in float32 and round into what the parameter is kept in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..draws import Draws
from .rounding import round_stochastically

CALLS = "calls"
"""Key of a state: how many steps were begun, those that moved nothing included. It keys the rounding."""


class OneByOne(torch.optim.Optimizer):
    """Computes in float32 whatever a parameter is kept in; bfloat16 is rounded stochastically.

    It honours `found_inf` as torch's fused optimizers do, and waits for no device.

    Args:
        groups: as torch's optimizers take them.
        seed: keys the rounding: it is a function of the seed, the step and the parameter.
        in_backward: whether each parameter is updated as soon as its gradient is there, and the gradient let go.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, seed: int, in_backward: bool) -> None:
        super().__init__(groups, {"lr": 0.0})
        self.draws, self.calls = Draws(seed), 0
        self.found_inf: Tensor | None = None
        self.places = {p: (index, group) for index, (p, group) in enumerate(self._pairs())}
        self.in_backward = in_backward
        self.squares: Tensor | None = None
        """Squared norm of the gradients that were let go since the last step."""
        if in_backward:
            for p in self.places:
                p.register_post_accumulate_grad_hook(self._use_up)

    def _pairs(self) -> list[tuple[Tensor, dict[str, Any]]]:
        return [(p, group) for group in self.param_groups for p in group["params"]]

    @abstractmethod
    def begin(self, p: Tensor) -> dict[str, Tensor]:
        """What is remembered of a parameter before its first step, but for `step`."""

    @abstractmethod
    def move(
        self, value: Tensor, grad: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The next value, float32, and what is then remembered; changes nothing in place.

        Args:
            value: the parameter, float32.
            grad: its gradient, float32.
            state: what is remembered, `step` being the number of this one from 1.
            group: the parameter's group.
        """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update what has a gradient; in backward, all that had one was updated before."""
        for p, (index, group) in self.places.items():
            if p.grad is not None and not self.in_backward:
                self._update(p, p.grad, index, group, self.found_inf)
        self.calls += 1
        self.squares = None

    def used_up(self) -> list[Tensor]:
        """In place of the gradients that are gone, one number with their common norm."""
        return [] if self.squares is None else [self.squares.sqrt()]

    @torch.no_grad()
    def _use_up(self, p: Tensor) -> None:
        """Called by the backward pass: a gradient that is not finite moves nothing of its own parameter."""
        index, group = self.places[p]
        assert p.grad is not None
        square = p.grad.float().square().sum()
        self.squares = square if self.squares is None else self.squares + square
        self._update(p, p.grad, index, group, (~torch.isfinite(square)).float())
        p.grad = None

    def _update(self, p: Tensor, grad: Tensor, index: int, group: dict[str, Any], found: Tensor | None) -> None:
        if p not in self.state:
            self.state[p] = self._fresh(p)
        old = p.detach()
        new, self.state[p] = self._moved(old.float(), grad.detach().float(), self.state[p], group, found)
        p.copy_(self._rounded(new, old, index, found))

    def _fresh(self, p: Tensor) -> dict[str, Tensor]:
        return {"step": torch.zeros((), device=p.device), **self.begin(p)}

    def _moved(
        self, old: Tensor, grad: Tensor, before: dict[str, Tensor], group: dict[str, Any], found: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The next value and state, float32; those of before in a step that must not move anything."""
        told = {**before, "step": before["step"] + 1}
        new, after = self.move(old, grad, told, group)
        after["step"] = told["step"]
        if found is None:
            return new, after
        bad = found > 0
        return torch.where(bad, old, new), {key: torch.where(bad, before[key], value) for key, value in after.items()}

    def _rounded(self, new: Tensor, old: Tensor, index: int, found: Tensor | None) -> Tensor:
        """A next value as its parameter is kept; `index` keys the rounding to bfloat16."""
        if old.dtype != torch.bfloat16:
            return new
        generator = torch.Generator(old.device).manual_seed(self.draws.torch_seed("rounding", self.calls, index))
        rounded = round_stochastically(new, generator)
        return rounded if found is None else torch.where(found > 0, old, rounded)

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with tensors alone."""
        tree = super().state_dict()
        calls = torch.tensor(self.calls, dtype=torch.int64)
        tree["state"] = {index: {**own, CALLS: calls.clone()} for index, own in tree["state"].items()}
        return tree

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As torch's, but every tensor keeps its type: torch would cast float32 moments to a bfloat16 parameter's."""
        parameters = [p for p, _ in self._pairs()]
        self.state.clear()
        for index, own in state_dict["state"].items():
            p = parameters[index]
            self.calls = int(own[CALLS])
            self.state[p] = {key: value.to(p.device, copy=True) for key, value in own.items() if key != CALLS}


class SteadyAdamW(OneByOne):
    """AdamW (Loshchilov & Hutter 2019) with moments in float32.

    Args:
        groups, seed, in_backward: as in the base class; `weight_decay` by group.
        betas: decay rates of the moments.
        eps: added to the denominator.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], eps: float, seed: int, in_backward: bool
    ) -> None:
        super().__init__(groups, seed=seed, in_backward=in_backward)
        self.betas, self.eps = betas, eps

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros(p.shape, device=p.device)
        return {**self.store("exp_avg", zero), **self.store("exp_avg_sq", zero.clone())}

    def store(self, name: str, moment: Tensor) -> dict[str, Tensor]:
        """How a moment is remembered."""
        return {name: moment}

    def recall(self, name: str, state: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """A moment from what `store` gave, float32, in the shape of `like`."""
        return state[name]

    def move(
        self, value: Tensor, grad: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        first, second = self.betas
        step, lr = state["step"].double(), group["lr"]
        mean = self.recall("exp_avg", state, value).lerp(grad, 1 - first)
        square = self.recall("exp_avg_sq", state, value) * second + grad * grad * (1 - second)
        size = (lr / (1 - first**step)).float()
        spread = square.sqrt() / (1 - second**step).sqrt().float() + self.eps
        new = value * (1 - lr * group["weight_decay"]) - size * mean / spread
        return new, {**self.store("exp_avg", mean), **self.store("exp_avg_sq", square)}
