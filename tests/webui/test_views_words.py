"""How the pages say numbers, times and foreign texts."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from webui.views import words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "less than a second"),
        (1, "1 second"),
        (45, "45 seconds"),
        (180, "3 minutes"),
        (7500, "2 h 5 min"),
        (7200, "2 h"),
        (3600 * 49, "2 days 1 h"),
        (1e12, "more than 1,000 days"),
    ],
)
def test_a_time_span_is_said_as_people_do(seconds, said):
    assert words.span(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "just now"), (-5, "just now"), (240, "4 minutes ago"), (86400 * 3, "3 days ago"), (None, "")],
)
def test_what_is_past(seconds, said):
    assert words.ago(seconds) == said


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1200, "1.2 KB"),
        (1.2e9, "1.2 GB"),
        (4.27e9, "4.3 GB"),
        (999_600, "1.0 MB"),
    ],
)
def test_sizes(amount, said):
    assert words.size(amount) == said


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (12.2, "12 steps a second"),
        (2.5, "2.5 steps a second"),
        (1, "1 step a second"),
        (0.25, "4 seconds a step"),
        (1 / 1.04, "1 step a second"),
        (1 / 120, "2 minutes a step"),
        (None, ""),
    ],
)
def test_paces(rate, said):
    assert words.pace(rate) == said


@example(5e-324)
@given(st.one_of(st.none(), st.floats(), st.integers(), st.booleans(), st.text()))
def test_whatever_stands_for_a_number_is_said_or_left_out(value):
    for say in (words.left, words.ago, words.size, words.memory, words.pace):
        said = say(value)
        assert isinstance(said, str)
        assert "nan" not in said
        assert "inf" not in said
        assert len(said) < 60


@given(st.floats())
def test_a_measured_number_is_said_in_few_characters(value):
    said = words.figure(value)
    assert 0 < len(said) < 15
    if math.isfinite(value) and abs(value) < 1e300:
        assert float(said.replace(",", "")) == pytest.approx(value, rel=0.06)


@given(st.text(st.characters(), max_size=300), st.integers(1, 200))
def test_shown_texts_can_be_written_anywhere(text, most):
    said = words.shown(text, most)
    assert len(said) <= most
    said.encode("utf-8")
    assert not set(said) & {chr(n) for n in (0, 8, 27, 0x202E, 0xD800, 0xFFFE)}
    assert "\n" not in words.one_line(text)
    assert words.shown(said, most) == said


def test_ordinary_texts_stay_as_they_are():
    text = "photo of <b>naïve</b> 猫 & „Tür“\n\tэто 👩‍👩‍👧"
    assert words.shown(text) == text


@pytest.mark.parametrize(("amount", "said"), [(1, "1 copy"), (2, "2 copies"), (1200, "1,200 copies")])
def test_counts(amount, said):
    assert words.count(amount, "copy") == said
