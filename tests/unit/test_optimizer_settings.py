"""What eps, the average and the warm-up do to the weights, against their formulas in float64, through the loop's update."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tuner.loop import update
from tuner.optim.optimizers import AdamW
from tuner.optim.schedules import Constant, Cosine, Schedule
from tuner.sections import EMA, Train
from tuner.training import Training
from tuner.types import ParamGroup

CPU = torch.device("cpu")
LR = 1e-3
SIZES = (1e-15, 1e-14, 1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-5, 1e-3, 0.5)
"""Gradients of one step, from where eps decides to where it does not."""


class Weights:
    """As much of an attachment as training asks for."""

    def __init__(self, values: torch.Tensor) -> None:
        self.weight = torch.nn.Parameter(values.clone())

    def param_groups(self):
        return [ParamGroup("all", {"w": self.weight})]

    def state_dict(self):
        return {"w": self.weight.detach()}


def training(values: torch.Tensor, **keys) -> tuple[Training, torch.nn.Parameter]:
    weights = Weights(values)
    return Training.of([weights], Train(steps=10_000, lr=LR, **keys), CPU, (), scaled=False), weights.weight


def one_step(state: Training, weight: torch.nn.Parameter, gradient: torch.Tensor, step: int = 0, norm=1.0) -> None:
    weight.grad = gradient.clone()
    update(state, {"loss": torch.zeros(())}, step=step, max_grad_norm=norm)


def adamw(gradients, eps: float, betas=(0.9, 0.999), clip: float | None = 1.0) -> torch.Tensor:
    """Loshchilov & Hutter 2019, algorithm 2, without decay, from 0, in float64."""
    w = m = v = torch.zeros_like(gradients[0], dtype=torch.float64)
    for t, gradient in enumerate(gradients, 1):
        g = gradient.double()
        if clip is not None:
            g = g * min(1.0, clip / (float(g.norm()) + 1e-6))
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g.square()
        w = w - LR * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
    return w


@pytest.mark.parametrize("eps", [1e-15, 1e-12, 1e-8, 1e-4])
@pytest.mark.parametrize("clip", [1.0, 1e-3, None])
def test_eps_is_what_the_formula_says(eps, clip):
    gradients = [torch.tensor(SIZES) * factor for factor in (1.0, -0.5, 2.0)]
    state, weight = training(torch.zeros(len(SIZES)), optimizer=AdamW(eps=eps, weight_decay=0))
    for step, gradient in enumerate(gradients):
        one_step(state, weight, gradient, step, clip)
    assert weight.dtype == torch.float32
    assert torch.allclose(weight.double(), adamw(gradients, eps, clip=clip), rtol=1e-5, atol=0)


def test_a_small_eps_lets_small_gradients_move_weights_and_a_usual_one_does_not():
    moved = {}
    for eps in (1e-15, 1e-8):
        state, weight = training(torch.zeros(1), optimizer=AdamW(eps=eps, weight_decay=0))
        one_step(state, weight, torch.tensor([1e-12]))
        moved[eps] = abs(float(weight.detach()))
    assert moved[1e-15] == pytest.approx(LR / (1 + 1e-3), rel=1e-5)
    assert moved[1e-8] == pytest.approx(LR * 1e-4, rel=1e-3)


def test_the_moments_are_float32_and_hold_the_square_of_small_gradients():
    state, weight = training(torch.zeros(1), optimizer=AdamW(eps=1e-15))
    one_step(state, weight, torch.tensor([1e-15]))
    moments = state.tensors()["optimizer"]
    assert {tensor.dtype for tensor in moments.values()} == {torch.float32}
    assert float(moments["0.exp_avg_sq"]) == pytest.approx(1e-33, rel=1e-5), "a normal number of float32"


# The average


def test_the_average_moves_every_hundredth_step_alone():
    state, weight = training(torch.ones(3), ema=EMA(decay=0.99, every=100), optimizer=AdamW(weight_decay=0))
    assert state.average is not None
    want, moves = torch.ones(3, dtype=torch.float64), []
    for step in range(350):
        before = state.average.tensors["w"].clone()
        one_step(state, weight, torch.full((3,), math.sin(step)), step)
        if not torch.equal(before, state.average.tensors["w"]):
            moves.append(step + 1)
        if (step + 1) % 100 == 0:
            want = 0.99 * want + 0.01 * weight.detach().double()
    assert moves == [100, 200, 300]
    assert torch.allclose(state.average.tensors["w"].double(), want, rtol=1e-6)
    assert not torch.allclose(state.average.tensors["w"], weight.detach(), rtol=1e-3)


def test_the_average_goes_on_across_a_stop():
    def go(state, weight, steps):
        for step in steps:
            one_step(state, weight, torch.full((2,), math.cos(step)), step)

    keys = {"ema": EMA(decay=0.9, every=7)}
    whole, weight = training(torch.ones(2), **keys)
    go(whole, weight, range(40))
    first, weight = training(torch.ones(2), **keys)
    go(first, weight, range(10))  # between two updates
    held = {group: {n: t.clone() for n, t in own.items()} for group, own in first.tensors().items()}
    second, other = training(torch.full((2,), 5.0), **keys)
    second.attachments[0].load_state_dict = lambda state: other.data.copy_(state["w"])  # type: ignore[attr-defined]
    second.restore(held)
    go(second, other, range(10, 40))
    assert torch.equal(second.average.tensors["w"], whole.average.tensors["w"])
    assert torch.equal(other, whole.active()[0])


# The warm-up


@pytest.mark.parametrize("schedule", [Constant(warmup=1000), Cosine(warmup=1000)], ids=["constant", "cosine"])
def test_a_thousand_steps_of_warm_up_to_the_peak(schedule: Schedule):
    rates = [1e-4 * schedule.factor(step, 5000) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-4 / 1001)
    assert all(later > earlier for earlier, later in pairwise(rates))
    steps = [later - earlier for earlier, later in pairwise(rates)]
    assert max(steps) - min(steps) < 1e-12, "in a straight line"
    assert rates[1000] == pytest.approx(1e-4)


def test_the_warm_up_scales_the_step():
    """A first step of Adam is as long as its rate."""
    state, weight = training(torch.zeros(1), optimizer=AdamW(weight_decay=0))
    state.optimizer.param_groups[0]["lr"] = LR * Constant(warmup=1000).factor(0, 5000)
    one_step(state, weight, torch.ones(1))
    assert float(weight.detach()) == pytest.approx(-LR / 1001, rel=1e-4)
