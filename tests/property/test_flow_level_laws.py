"""Laws of a flow's noise levels: inside (0, 1), rising with the draw, finite at every float32 draw there can be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.objectives.flow_levels import (
    ConstantShift,
    CosMap,
    DynamicShift,
    LogitNormal,
    Mode,
    ResolutionShift,
    Uniform,
)
from tuner.objectives.flow_weights import X0, CosMapWeighting, NoWeighting, SigmaSqrt
from tuner.objectives.rectified_flow import RectifiedFlow
from tuner.types import Batch, Cond, Role

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
STEP = 2.0**-24
"""Between two float32 draws of a uniform number in [0, 1)."""
EXTREMES = [0.0, STEP, 2 * STEP, 1e-3, 0.5, 1 - 1e-3, 1 - 2 * STEP, 1 - STEP]

densities = st.one_of(
    st.builds(LogitNormal, mean=st.floats(-10, 10), std=st.floats(0.01, 5)),
    st.builds(Mode, scale=st.floats(-1, 1.75)),
    st.just(CosMap()),
    st.just(Uniform()),
)
shifts = st.one_of(
    st.builds(ConstantShift, value=st.floats(0.01, 100)),
    st.builds(ResolutionShift, base_tokens=st.integers(1, 1_000_000)),
    st.builds(
        DynamicShift,
        base_shift=st.floats(-5, 5),
        max_shift=st.floats(-5, 5),
        base_tokens=st.integers(1, 512),
        max_tokens=st.integers(1024, 8192),
    ),
)
weightings = st.sampled_from([NoWeighting(), CosMapWeighting(), SigmaSqrt(), X0()])
sizes = st.tuples(st.integers(2, 180), st.integers(2, 180))
draws = st.integers(0, 2**24 - 1).map(lambda n: n * STEP)


@given(densities, shifts, sizes, st.lists(draws, max_size=20))
@settings(deadline=None, max_examples=200)
def test_levels_are_inside_and_rise_with_the_draw(density, shift, size, found):
    level = torch.tensor(sorted([*EXTREMES, *found]), dtype=torch.float32)
    for sigma in (density.sigma(level), shift.apply(density.sigma(level), *size)):
        assert sigma.dtype == torch.float32
        assert (sigma > 0).all()
        assert (sigma < 1).all()
        assert (1000 * sigma < 1000).all(), "a timestep is below 1000"
        assert (sigma.diff() >= -(2.0**-22)).all(), "up to the rounding of a level near 1"


@given(shifts, sizes, st.lists(st.floats(STEP, 1 - STEP, width=32), min_size=2))
@settings(deadline=None, max_examples=200)
def test_a_shift_keeps_the_order_exactly(shift, size, found):
    sigma = torch.tensor(sorted(found), dtype=torch.float32)
    assert (shift.apply(sigma, *size).diff() >= 0).all()


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.001, 0.999))
@settings(deadline=None)
def test_shifts_add_up_in_logits(one, other, sigma):
    """A shift adds log s to logit(sigma), so two shifts are one by their product."""
    found = torch.tensor(sigma, dtype=torch.float64)
    moved = ConstantShift(value=one).apply(found, 2, 2)
    assert math.isclose(float(torch.logit(moved)), float(torch.logit(found)) + math.log(one), abs_tol=1e-9)
    if one * other <= 100:
        both = ConstantShift(value=one * other).apply(found, 2, 2)
        assert torch.allclose(ConstantShift(value=other).apply(moved, 2, 2), both, rtol=1e-9)


@given(densities, shifts, weightings)
@settings(deadline=None, max_examples=100)
def test_every_number_of_a_step_is_finite_at_the_extremes(density, shift, weighting):
    if isinstance(weighting, SigmaSqrt) and isinstance(density, LogitNormal):
        weighting = NoWeighting()
    bound = RectifiedFlow(levels=density, shift=shift, weighting=weighting).bind(FLOW, torch.device("cpu"))
    count = len(EXTREMES)
    noise, latents = torch.full((count, 4, 2, 2), 5.0), torch.full((count, 4, 2, 2), -5.0)
    level = torch.tensor(EXTREMES, dtype=torch.float32)
    batch = Batch(latents, {"noise": noise, "level": level}, Cond({}), torch.ones(count), (Role("images"),))
    noised = bound.corrupt(batch)
    for name in ("x_t", "timestep", "target", "weight"):
        found = getattr(noised, name)
        assert found.dtype == torch.float32
        assert found.isfinite().all(), name
    assert (noised.weight >= 0).all()
    assert noised.losses(torch.zeros_like(latents)).isfinite().all()


@given(st.floats(0.01, 0.99), st.floats(-3, 3), st.floats(-3, 3))
@settings(deadline=None)
def test_the_target_is_the_slope_of_the_path(level, x_0, noise):
    """Moving the level by d moves x_t by d times the target, whatever the density."""
    bound = RectifiedFlow(levels=Uniform(), shift=ConstantShift(value=1.0)).bind(FLOW, torch.device("cpu"))

    def at(u):
        tensors = {"noise": torch.full((1, 1, 2, 2), noise).double(), "level": torch.tensor([u], dtype=torch.float64)}
        picture = torch.full((1, 1, 2, 2), x_0).double()
        return bound.corrupt(Batch(picture, tensors, Cond({}), torch.ones(1), (Role("images"),)))

    here, there = at(level), at(level + 1e-3)
    assert torch.allclose(there.x_t - here.x_t, 1e-3 * here.target, atol=1e-10)


@pytest.mark.parametrize("density", [LogitNormal(), Mode(), CosMap(), Uniform()], ids=lambda d: d.key)
def test_symmetric_densities_are_symmetric(density):
    level = torch.linspace(0.001, 0.999, 501, dtype=torch.float64)
    assert torch.allclose(density.sigma(level) + density.sigma(1 - level), torch.ones_like(level), atol=1e-9)


def test_a_level_that_rounds_to_one_stays_below_it():
    """Trap 24: sigmoid(17) is 1 in float32, and mode can be exactly 1."""
    for density in (LogitNormal(mean=10, std=5), Mode(scale=1.75), CosMap()):
        sigma = density.sigma(torch.tensor([1 - STEP], dtype=torch.float32))
        assert sigma < 1
        assert ConstantShift(value=100).apply(sigma, 2, 2) < 1
