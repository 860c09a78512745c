"""Charts: well-formed, in bounds, legible, and never more than text where a text stands."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from view_parts import PAYLOAD

from webui.views.scale import linear_scale, log_scale, steps_scale
from webui.views.svg import Line, line_chart

SVG = "{http://www.w3.org/2000/svg}"
VALUES = st.one_of(st.floats(), st.floats(0, 1), st.sampled_from([0.0, 1e308, -1e308, 5e-324, math.nan, math.inf]))
POINTS = st.lists(st.tuples(st.integers(0, 10**15).map(float), VALUES), max_size=30).map(sorted)


def parsed(html: str) -> ET.Element:
    return ET.fromstring(html)


def paths(figure: ET.Element) -> list[str]:
    return [path.get("d", "") for path in figure.iter(f"{SVG}path")]


@settings(max_examples=150, deadline=None)
@given(st.lists(POINTS, max_size=4), st.booleans(), st.sampled_from(["plain", "faint", "dots"]))
def test_any_numbers_make_a_chart_within_its_bounds(series, log, look):
    figure = parsed(line_chart([Line(f"n{i}", points, look) for i, points in enumerate(series)], title="t", log=log))
    for path in paths(figure):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.replace("h0", ""))]
        assert all(-0.1 <= number <= 1000.1 for number in numbers), path
    for dot in figure.iter(f"{SVG}circle"):
        assert -0.01 <= float(dot.get("cx", "")[:-1]) <= 100.01
        assert -0.01 <= float(dot.get("cy", "")[:-1]) <= 100.01
    labels = [text.text for text in figure.iter(f"{SVG}text")]
    assert all(label and "nan" not in label and "inf" not in label for label in labels)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5))
def test_ticks_are_few_ordered_and_hold_the_values(values):
    scale = linear_scale(values)
    ticks = [value for value, _ in scale.ticks]
    hair = 1e-6 * max(map(abs, values))
    assert scale.low <= min(values) + hair
    assert scale.high >= max(values) - hair
    assert 2 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))
    assert all(-1e-9 <= scale.place(tick) <= 1 + 1e-9 for tick in ticks)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-290, 1e290), min_size=1, max_size=5))
def test_log_ticks_are_few_ordered_and_hold_the_values(values):
    scale = log_scale(values)
    ticks = [value for value, _ in scale.ticks]
    assert scale.low <= min(values) * (1 + 1e-9)
    assert scale.high >= max(values) * (1 - 1e-9)
    assert 1 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**12).map(float), min_size=1, max_size=5))
def test_steps_have_whole_ticks(values):
    scale = steps_scale(values)
    assert len(scale.ticks) <= 6
    assert all(value == int(value) for value, _ in scale.ticks)
    assert all(scale.low <= value <= scale.high for value, _ in scale.ticks)
    assert all(len(label) <= 10 for _, label in scale.ticks)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 1.0], ["0", "0.25", "0.50", "0.75", "1.00"]),
        ([0.07, 0.12], ["0.06", "0.08", "0.10", "0.12"]),
        ([1e-5, 9e-5], ["0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"]),
        ([9.1e-5, 1.14e-4], ["9e-5", "1e-4", "1.1e-4", "1.2e-4"]),
        ([0.0, 8e7], ["0", "2e7", "4e7", "6e7", "8e7"]),
        ([-3.0, 390.0], ["-100", "0", "100", "200", "300", "400"]),
    ],
)
def test_ticks_are_round(values, labels):
    assert [label for _, label in linear_scale(values).ticks] == labels


def test_a_chart_says_what_it_shows():
    html = line_chart([Line("loss", [(0, 1.0), (10, 0.25), (20, 0.5)])], title="Loss")
    figure = parsed(html)
    svg = next(figure.iter(f"{SVG}svg"))
    assert svg.get("role") == "img"
    assert svg.findtext(f"{SVG}title") == "Loss"
    assert "1 at step 0, 0.5 at step 20, lowest 0.25 at step 10" in svg.findtext(f"{SVG}desc", "")
    group = next(g for g in figure.iter(f"{SVG}g") if g.get("class") == "chart-line")
    assert group.get("data-points") == "0,1 10,0.25 20,0.5"
    assert paths(figure) == ["M0.0 0.0L500.0 1000.0L1000.0 666.7"] or len(paths(figure)) == 1
    assert isinstance(html, Markup)


def test_lines_that_belong_together_share_a_colour():
    lines = [Line("a", [(0, 1.0), (1, 2.0)], "faint", tone=1), Line("b", [(0, 1.0)], tone=1), Line("c", [(0, 3.0)])]
    strokes = [path.get("style") for path in parsed(line_chart(lines, title="t")).iter(f"{SVG}path")]
    assert strokes[0] == strokes[1] != strokes[2]
    assert "--chart-2" in strokes[2]


def test_a_gap_is_a_gap_and_a_lone_point_is_seen():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.5), (4, math.nan), (5, 1.0), (6, 1.0)]
    figure = parsed(line_chart([Line("x", points)], title="t"))
    (path,) = paths(figure)
    assert path.count("M") == 3
    assert path.count("h0") == 1
    assert "leave a gap" in "".join(figure.itertext())


def test_log_leaves_out_what_it_cannot_show():
    figure = parsed(line_chart([Line("x", [(0, 1.0), (1, 0.0), (2, -4.0), (3, 100.0)])], title="t", log=True))
    assert paths(figure)[0].count("h0") == 2
    assert "not above 0" in "".join(figure.itertext())


@pytest.mark.parametrize("points", [[], [(1, math.nan)], [(1, math.inf), (2, -math.inf)]], ids=["none", "nan", "inf"])
def test_nothing_to_show_is_said(points):
    figure = parsed(line_chart([Line("x", points)], title="t"))
    assert "Nothing measured yet" in "".join(figure.itertext())
    assert not list(figure.iter(f"{SVG}svg"))


@pytest.mark.parametrize(
    "text",
    [PAYLOAD, "</title><script>x</script>", "{{ 7*7 }}", '" onload="x', "\0\x1b\ud800"],
    ids=["payload", "title", "template", "attribute", "controls"],
)
def test_texts_stay_texts(text):
    html = line_chart([Line(text, [(0, 1.0), (1, 2.0)], "dots")], title=text, x_label=text, note=text)
    figure = parsed(html)
    tags = {element.tag.removeprefix(SVG) for element in figure.iter()}
    assert tags <= {
        "figure",
        "figcaption",
        "div",
        "svg",
        "title",
        "desc",
        "g",
        "line",
        "text",
        "path",
        "circle",
        "ul",
        "li",
        "span",
        "p",
    }
    attributes = {name for element in figure.iter() for name in element.attrib}
    assert not any(name.startswith("on") for name in attributes)
    assert "49" not in html
    assert "<script" not in html
    html.encode("utf-8")
