"""The yardstick's numbers against their formulas written out, on embeddings made by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tuner.evaluation import Number, Report, Row, measures


def rows(*degrees: float) -> np.ndarray:
    """Directions in the plane, so that every cosine is known."""
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def test_similarity_to_the_photos_is_the_mean_over_all_pairs():
    found = measures.to_references(rows(0, 30), rows(0, 60))
    each = [(cos(0) + cos(60)) / 2, (cos(30) + cos(30)) / 2]
    assert found.mean == pytest.approx(np.mean(each), abs=1e-6)
    assert found.std == pytest.approx(np.std(each, ddof=1), abs=1e-6)
    assert found.n == 2


def test_photos_are_compared_with_the_other_photos_only():
    """A photo is like itself; that says nothing of what another picture of the subject reaches."""
    found = measures.among(rows(0, 30, 90))
    each = [(cos(30) + cos(90)) / 2, (cos(30) + cos(60)) / 2, (cos(90) + cos(60)) / 2]
    assert found is not None
    assert (found.mean, found.std) == (pytest.approx(np.mean(each), abs=1e-6), pytest.approx(np.std(each, ddof=1)))
    assert measures.among(rows(7)) is None


def test_nearest_is_the_largest_cosine():
    assert measures.to_nearest(rows(0, 50), rows(10, 60)).mean == pytest.approx((cos(10) + cos(10)) / 2, abs=1e-6)


def test_photos_among_themselves_leave_out_themselves():
    found = measures.among_nearest(rows(0, 20, 90))
    assert found is not None
    assert found.mean == pytest.approx((cos(20) + cos(20) + cos(70)) / 3, abs=1e-6)
    assert measures.among_nearest(rows(0)) is None


def test_drift_is_one_minus_the_cosine_of_each_pair():
    assert measures.drift(rows(0, 10), rows(0, 70)).mean == pytest.approx((0 + 1 - cos(60)) / 2, abs=1e-6)


def test_diversity_is_over_all_pairs():
    found = measures.diversity(rows(0, 30, 90))
    assert found is not None
    assert (found.n, found.mean) == (3, pytest.approx(1 - (cos(30) + cos(90) + cos(60)) / 3, abs=1e-6))
    of_each = 1 - np.array([cos(30) + cos(90), cos(30) + cos(60), cos(90) + cos(60)]) / 2
    assert found.std == pytest.approx(of_each.std(ddof=1), abs=1e-6)
    assert found.error == pytest.approx(2 * found.std / math.sqrt(3))
    assert measures.diversity(rows(5)) is None


@given(st.lists(st.floats(0, 360), min_size=1, max_size=8))
@settings(deadline=None)
def test_a_picture_has_not_moved_from_itself(degrees):
    seen = rows(*degrees)
    assert measures.drift(seen, seen) == Number(0, 0, len(degrees), 0)
    assert measures.to_nearest(seen, seen).mean == pytest.approx(1, abs=1e-6)


def test_the_error_of_a_diversity_is_that_of_repeating_it():
    """Against diversities of many sets of pictures drawn anew; pairs taken as independent would claim far less."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(600):
        drawn = rng.normal(size=(12, 6)).astype(np.float32) + np.float32(1.0)
        found.append(measures.diversity(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)))
    actual = np.std([number.mean for number in found])
    assert np.mean([number.error for number in found]) == pytest.approx(actual, rel=0.2)


def test_pixels_move_by_the_root_of_their_mean_square():
    """Half of the pixels by 255, the others by nothing."""
    dark, half = np.zeros((2, 4, 4, 3), np.uint8)
    half[:2] = 255
    moved = measures.pixel_drift([Image.fromarray(dark)] * 2, [Image.fromarray(half), Image.fromarray(dark)])
    assert (moved.mean, moved.n) == (pytest.approx(math.sqrt(0.5) / 2), 2)
    assert measures.pixel_drift([Image.fromarray(half)], [Image.fromarray(half)]).mean == 0


def test_the_standard_error_falls_with_the_root_of_the_count():
    found = Number.of(np.array([1.0, 2.0, 3.0, 6.0]))
    assert (found.mean, found.n, found.error) == (3, 4, pytest.approx(found.std / 2))
    assert Number.of(np.array([3.0], np.float32)).error == 0
    with pytest.raises(ValueError, match="nothing"):
        Number.of(np.array([], np.float32))


def a_report() -> Report:
    one, two = Number(0.25, 0.1, 4, 0.05), Number(0.75, 0.2, 4, 0.1)
    return Report(
        (
            Row("subject fidelity", "subject alone", "DINO", one, two, Number(0.9, 0.0, 1, 0.0), "higher"),
            Row("prior drift", "unrelated pictures", "CLIP-I", None, one, better="lower"),
        ),
        {"base": "toybox", "side": 64},
        ("the moon: it is far",),
    )


def test_a_report_comes_back_from_its_file():
    report = a_report()
    assert Report.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["rows"][1]["base"] is None


def test_a_table_shows_every_row_and_what_is_missing():
    page = a_report().markdown()
    assert "| subject fidelity: subject alone | DINO | 0.250 ±0.050 (n 4) | 0.750 ±0.100 (n 4) |" in page
    assert "Not measured: the moon: it is far" in page


def test_rows_are_found_by_key():
    assert a_report().row("prior drift/unrelated pictures/CLIP-I").adapter.n == 4
    with pytest.raises(KeyError):
        a_report().row("prior drift/unrelated pictures/DINO")
