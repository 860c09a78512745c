"""The grammar of a grid's axes: what is written is read, everything else is refused in one line."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import UsageError
from tuner.grid_axes import EXAMPLES, LONGEST, MOST_CELLS, NAMES, Axis, check_size, parse_axis, spelled

WORDS = st.text(string.ascii_letters + string.digits + " ,.=:!?éü()", min_size=1, max_size=40)
PROMPTS = WORDS.map(str.strip).filter(bool)
VALUES = {
    "strength": st.integers(0, 2000).map(lambda n: n / 1000),
    "guidance": st.integers(0, 50_000).map(lambda n: n / 1000),
    "seed": st.integers(0, 2**63 - 1),
    "steps": st.integers(1, 1000),
    "checkpoint": st.one_of(st.just("final"), st.integers(0, 10**12 - 1)),
    "prompt": PROMPTS,
}
AXES = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.lists(VALUES[name], min_size=1, max_size=30, unique=True).map(lambda v: Axis(name, tuple(v)))
)


@given(AXES, st.sampled_from(["", " ", "  "]))
def test_what_is_written_is_read(axis, room):
    text = spelled(axis)
    assert parse_axis(text) == axis
    separator = "|" if axis.name == "prompt" else ","
    spaced = f"{room}{axis.name.upper()}{room}={text.partition('=')[2].replace(separator, room + separator + room)}"
    assert parse_axis(spaced) == axis
    assert len(axis.labels) == len(axis.values)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_in_plain_words(text):
    try:
        axis = parse_axis(text)
    except UsageError as error:
        assert "\n" not in error.message.replace(text, "")
        assert error.message.startswith("--x")
    else:
        assert axis.name in NAMES
        assert axis.values


@given(AXES, st.data())
def test_a_value_that_is_there_twice_is_refused(axis, data):
    again = data.draw(st.sampled_from(axis.values))
    with pytest.raises(UsageError, match="twice"):
        parse_axis(spelled(Axis(axis.name, (*axis.values, again))))


@given(st.one_of(st.floats(max_value=-1e-3, min_value=-1e6), st.floats(min_value=2.001, max_value=1e6)))
def test_a_strength_outside_0_to_2_is_refused(value):
    with pytest.raises(UsageError, match="outside 0 to 2"):
        parse_axis(f"strength=1,{value:.6f}")


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_grid_of_more_than_400_cells_is_refused(across, down):
    x, y = Axis("seed", tuple(range(across))), Axis("steps", tuple(range(1, down + 1)))
    if across * down <= MOST_CELLS:
        check_size(x, y)
    else:
        with pytest.raises(UsageError, match=f"{across * down} cells"):
            check_size(x, y)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_axis_has_an_example_that_is_one(name):
    assert parse_axis(EXAMPLES[name]).name == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strength", "is no axis"),
        ("", "is no axis"),
        ("colour=red", "no axis 'colour'"),
        ("strength=", "has no values"),
        ("strength=,", "has no values"),
        ("seed=1,,2", "is empty"),
        ("seed=-1", "no whole number"),
        ("seed=1.5", "no whole number"),
        ("seed=1e3", "no whole number"),
        ("seed=9223372036854775808", "outside 0 to"),
        ("seed=٣", "no whole number"),
        ("strength=nan", "no number"),
        ("strength=inf", "no number"),
        ("strength=1e0", "no number"),
        ("strength=.", "no number"),
        ("strength=-0.1", "outside 0 to 2"),
        ("steps=0", "outside 1 to 1000"),
        ("guidance=51", "outside 0 to 50"),
        ("checkpoint=last", "nor final"),
        ("checkpoint=final,FINAL", "twice"),
        ("strength=0,-0", "twice"),
        (f"prompt={'a' * (LONGEST + 1)}", "characters"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, said):
    with pytest.raises(UsageError) as caught:
        parse_axis(text)
    assert said in caught.value.message


def test_both_axes_the_same_is_refused():
    axis = parse_axis("seed=1,2")
    with pytest.raises(UsageError, match="both --x and --y vary the seed"):
        check_size(axis, parse_axis("seed=3", "--y"))
