"""Numerics do not drift: each curve's losses are those written down, to 1e-5 (`make golden` writes them anew)."""

from __future__ import annotations

import math

import pytest
from curves import CURVES, STEPS, losses, read


@pytest.mark.parametrize("name", CURVES)
def test_curve(name):
    expected = read(name)
    assert len(expected) == STEPS
    assert losses(name) == pytest.approx(expected, rel=1e-5)


def test_the_curves_are_different_runs():
    curves = [read(name) for name in CURVES]
    assert all(math.isfinite(loss) for curve in curves for loss in curve)
    for i, one in enumerate(curves):
        assert len(set(one)) == STEPS
        for other in curves[:i]:  # the gamma of min-SNR leaves a step alone where no level of it is high
            assert sum(a == pytest.approx(b, rel=1e-5) for a, b in zip(one, other, strict=True)) < STEPS / 2
