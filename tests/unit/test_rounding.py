"""Stochastic rounding: right on average, always a neighbour, and nothing too small is lost."""

from __future__ import annotations

import pytest
import torch

from tuner.optim.rounding import round_stochastically


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def neighbours(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bfloat16 towards zero and the one beyond."""
    bits = value.view(torch.int32) & ~0xFFFF
    return bits.view(torch.float32), (bits + 0x10000).view(torch.float32)


def test_it_is_always_one_of_the_two_neighbours():
    value = torch.randn(20_000, generator=generator()) * torch.logspace(-30, 30, 20_000)
    found = round_stochastically(value, generator()).float()
    near, far = neighbours(value)
    assert torch.all((found == near) | (found == far))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_mean_is_the_value(share, sign):
    """A share s of the way to the next number is rounded up with the chance s."""
    step = 2.0**-7  # of bfloat16 between 1 and 2
    value = torch.full((200_000,), sign * (1.0 + share * step))
    found = round_stochastically(value, generator()).float()
    up = (found != sign).float().mean()
    assert abs(float(up) - share) < 5 * (share * (1 - share) / len(value)) ** 0.5 + 2**-16
    assert abs(float(found.mean() - value[0])) < 5 * step * 0.5 / len(value) ** 0.5 + 1e-6


def test_what_fits_is_kept():
    value = torch.randn(1000, generator=generator()).to(torch.bfloat16).float()
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf")])
    for exact in (value, special):
        found = round_stochastically(exact, generator()).float()
        assert torch.equal(found, exact)
    assert torch.isnan(round_stochastically(torch.tensor([float("nan")]), generator())).all()


def test_the_largest_numbers_stay_finite():
    largest = torch.full((1000,), torch.finfo(torch.bfloat16).max)
    assert torch.isfinite(round_stochastically(largest, generator())).all()


def test_equal_keys_give_equal_bits():
    value = torch.randn(1000, generator=generator())
    one, two = (round_stochastically(value, generator(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, round_stochastically(value, generator(8)))
