"""Every schedule: its warm-up, its bounds, and its shape against the published one."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers.optimization import get_scheduler
from hypothesis import given
from hypothesis import strategies as st

from tuner.optim.schedules import Schedule

NAMES = sorted(Schedule.family)


def factors(name: str, steps: int, **keys) -> list[float]:
    schedule = Schedule.read({"name": name, **keys})
    return [schedule.factor(step, steps) for step in range(steps)]


@pytest.mark.parametrize("name", NAMES)
@given(steps=st.integers(1, 500), warmup=st.integers(0, 600))
def test_a_rate_is_a_share_of_the_peak_and_never_nothing(name, steps, warmup):
    found = factors(name, steps, warmup=warmup)
    assert all(0 < factor <= 1 for factor in found)
    assert all(b > a for a, b in pairwise(found[: warmup + 1])), "it rises to the peak"
    if warmup < steps:
        assert found[warmup] == 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"constant", "cosine_with_restarts"}))
@given(steps=st.integers(2, 300), warmup=st.integers(0, 20))
def test_after_the_warm_up_it_only_falls(name, steps, warmup):
    found = factors(name, steps, warmup=warmup)[warmup:]
    assert all(b < a for a, b in pairwise(found))


@given(cycles=st.integers(2, 40), period=st.integers(1, 40))
def test_each_restart_is_at_the_peak(cycles, period):
    found = factors("cosine_with_restarts", cycles * period, cycles=cycles)
    once = factors("cosine", period)
    assert found == pytest.approx(once * cycles, abs=1e-6)


def theirs(name: str, steps: int, **keys) -> list[float]:
    """Rates of diffusers' schedule of that name."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_training_steps=steps, **keys)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_restarts_are_diffusers():
    assert factors("cosine_with_restarts", 90, cycles=3) == pytest.approx(
        theirs("cosine_with_restarts", 90, num_warmup_steps=0, num_cycles=3), abs=1e-6
    )


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.5])
def test_polynomial_is_diffusers(power):
    """Which ends at a rate of 1e-7."""
    want = theirs("polynomial", 50, num_warmup_steps=0, power=power)
    assert factors("polynomial", 50, power=power, end=1e-7) == pytest.approx(want, abs=1e-9)


def test_polynomial_ends_where_it_is_told():
    assert factors("polynomial", 1000, end=0.25)[-1] == pytest.approx(0.25, abs=1e-5)
    assert factors("polynomial", 30, power=1.0) == pytest.approx(factors("linear", 30))


def test_rex_is_the_published_one():
    """Chen et al. 2021, sec. 4: (1 - z) / (1/2 + (1 - z) / 2) at the share z of the run."""
    found = factors("rex", 200)
    assert found == pytest.approx([(1 - k / 200) / (0.5 + (1 - k / 200) / 2) for k in range(200)])
    assert found[100] == pytest.approx(2 / 3)
    assert all(rex > linear for rex, linear in zip(found[1:], factors("linear", 200)[1:], strict=True))


def test_the_first_cosine_of_many_ends_low():
    found = factors("cosine_with_restarts", 300, cycles=3)
    assert found[99] < 1e-3 < 0.5 * (1 + math.cos(math.pi * 0.9)) < found[90] + 1e-9
