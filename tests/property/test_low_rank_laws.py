"""Laws of the best low-rank matrices, whatever their shapes; and the words that name an adapter and its weight."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.drawing import parse_adapter
from tuner.errors import UsageError
from tuner.files.low_rank import Wanted, of_matrix, of_product
from tuner.files.merge import require_weights

SIDES = st.integers(1, 12)


def matrix(rows: int, columns: int, seed: int, rank: int | None = None) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(rows, columns, generator=g)
    return torch.randn(rows, rank, generator=g) @ torch.randn(rank, columns, generator=g)


@given(SIDES, SIDES, st.integers(0, 99), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_it_is_the_best_of_its_rank(rows, columns, seed, rank):
    """As near as torch's own SVD comes (Eckart and Young 1936), and the energy that is told is the one that is kept."""
    whole = matrix(rows, columns, seed).double()
    spectrum = of_matrix(whole)
    rank = min(rank, spectrum.rank)
    down, up = spectrum.factors(rank)
    assert down.shape == (rank, columns)
    assert up.shape == (rows, rank)
    left = float(((whole - up.double() @ down.double()) ** 2).sum())
    best = float((torch.linalg.svdvals(whole)[rank:] ** 2).sum())
    total = float((whole**2).sum())
    assert abs(left - best) <= 1e-5 * total
    assert math.isclose(spectrum.kept(rank) + left, total, rel_tol=1e-5)
    assert math.isclose(spectrum.total, total, rel_tol=1e-9)


@given(SIDES, SIDES, st.integers(1, 5), st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_product_has_the_spectrum_of_the_matrix_that_it_makes(rows, columns, rank, scale, seed):
    down, up = matrix(rank, columns, seed), matrix(rows, rank, seed + 1)
    product = of_product(down, up, scale)
    whole = scale * (up.double() @ down.double())
    assert math.isclose(product.total, float((whole**2).sum()), rel_tol=1e-6, abs_tol=1e-12)
    small, tall = product.factors(product.rank)
    assert torch.allclose(tall.double() @ small.double(), whole, atol=1e-4)
    assert product.rank <= min(rank, rows, columns)


@given(SIDES, SIDES, st.floats(0.01, 1), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_rank_for_an_energy_is_the_smallest_that_keeps_it(rows, columns, share, seed):
    spectrum = of_matrix(matrix(rows, columns, seed))
    rank = Wanted(energy=share).of(spectrum)
    assert spectrum.kept(rank) >= share * spectrum.total * (1 - 1e-9)
    assert rank == 1 or spectrum.kept(rank - 1) < share * spectrum.total


def test_a_matrix_of_low_rank_has_no_more():
    spectrum = of_matrix(matrix(9, 7, seed=3, rank=2))
    assert spectrum.rank == 2
    assert Wanted(rank=5).of(spectrum) == 2


def test_nothing_is_a_matrix_too():
    for spectrum in (of_matrix(torch.zeros(4, 3)), of_product(torch.zeros(2, 3), torch.zeros(4, 2), 1.0)):
        assert spectrum.total == 0
        down, up = spectrum.factors(Wanted(energy=0.9).of(spectrum))
        assert not (up @ down).any()


@pytest.mark.parametrize(
    "keys",
    [{}, {"rank": 2, "energy": 0.5}, {"rank": 0}, {"rank": -1}, {"energy": 0.0}, {"energy": 1.1},
     {"energy": float("nan")}, {"energy": -1.0}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(keys):
    with pytest.raises(UsageError, match="--rank|--energy"):
        Wanted(**keys)


@given(st.text(min_size=1, max_size=40), st.one_of(st.just(""), st.floats().map(str), st.text(max_size=8)))
@settings(max_examples=150, deadline=None)
def test_a_name_and_a_weight_come_apart_or_stay_together(name, weight):
    """Whatever is typed is a file with a weight; the weight is the number behind the last colon, if that is one."""
    text = f"{name}:{weight}" if weight else name
    try:
        strong = parse_adapter(text)
    except RuntimeError:  # `~name` where there is no such user
        assert name.startswith("~")
        return
    assert isinstance(strong.strength, float)
    if strong.strength != 1:
        assert str(text).rpartition(":")[2].strip() != ""
        assert float(text.rpartition(":")[2]) == strong.strength
    try:
        require_weights([strong])
    except UsageError:
        assert strong.strength == 0 or not math.isfinite(strong.strength)


@given(st.floats(-4, 4).map(lambda x: round(x, 3)))
def test_a_plain_weight_is_read(weight):
    strong = parse_adapter(f"dog.safetensors:{weight:g}") if abs(weight) >= 1e-3 else parse_adapter("dog.safetensors:0")
    assert strong.path.name == "dog.safetensors"
    assert math.isclose(strong.strength, weight if abs(weight) >= 1e-3 else 0.0)
