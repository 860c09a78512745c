"""Charts as inline SVG that fits any width, in the page's colours, legible without a mouse, a script or eyes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..html import render
from .scale import Scale, described, drawable, linear_scale, log_scale, steps_scale
from .words import one_line

Points = Sequence[tuple[float, float]]
"""(step, value) in order of the steps; a value that is not finite is a gap."""
Places = Sequence[tuple[float, float] | None]
"""(across, down) from 0 to 1 of each point; None for a gap."""
TONES = ("#2f6fde", "#c2571a", "#2b8a57", "#9a4fc0", "#b58900", "#c2255c", "#0b8793", "#6b7280")
"""Colours of lines where the page sets no `--chart-1` ... `--chart-8`; each is legible on white and on near-black."""
_SIDE = 1000
"""Units of the plot's own drawing, which is stretched to the room that there is; lines keep their width."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    """What the legend calls it."""
    points: Points
    look: str = "plain"
    """`plain`, `faint` (behind the others), or `dots` (few points, each marked)."""
    tone: int | None = None
    """Which colour, from 1; None takes the next."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that belong on one chart."""

    key: str
    title: str
    lines: tuple[Line, ...]
    latest: str = ""
    """The newest value in words."""
    note: str = ""
    """What of it cannot be shown."""

    def svg(self, *, log: bool = False, height: int = 220) -> Markup:
        """The chart as HTML."""
        return line_chart(self.lines, title=self.title, log=log, height=height, note=self.note)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A line as the template shows it; every field is text or numbers."""

    name: str
    look: str
    tone: int
    colour: str
    dash: str
    path: str
    dots: tuple[tuple[str, str], ...]
    """Places of marked points, in percent."""
    data: str
    """`step,value` pairs with a space between them, for a script that shows the value under the pointer."""
    words: str


def line_chart(
    lines: Sequence[Line], *, title: str, x_label: str = "step", log: bool = False, height: int = 220, note: str = ""
) -> Markup:
    """A chart as one HTML figure, whose every text the template escaped.

    Args:
        lines: drawn in this order. Values that are not finite leave a gap; on a log scale so do those not above 0.
        title: shown above, and read aloud.
        x_label: what the points are counted in.
        log: whether equal ratios shall be equal heights.
        height: of the plot in pixels; its width is the page's.
        note: shown below.
    """
    seen = [point for line in lines for point in line.points if drawable(point[1], log=log) and drawable(point[0])]
    across = steps_scale(step for step, _ in seen)
    up = (log_scale if log else linear_scale)(value for _, value in seen)
    tones = _tones(lines)
    drawn = [_drawn(line, tone, across, up) for line, tone in zip(lines, tones, strict=True)]
    missing = sum(len(line.points) for line in lines) - len(seen)
    why = "not finite, or not above 0" if log else "not finite"
    notes = [f"values that are {why} leave a gap"] if missing else []
    html = render(
        "chart.html",
        title=one_line(title, 120),
        x_label=one_line(x_label, 40),
        height=height,
        side=_SIDE,
        lines=drawn,
        empty=not seen,
        x_ticks=[(_percent(across.place(value)), label) for value, label in across.ticks],
        y_ticks=[(_percent(1 - up.place(value)), label) for value, label in up.ticks],
        scale={"x0": across.low, "x1": across.high, "y0": up.low, "y1": up.high, "log": int(log)},
        notes=[*notes, *([one_line(note, 300)] if note else [])],
    )
    return Markup(html)


def _tones(lines: Sequence[Line]) -> list[int]:
    taken, tones = max((line.tone or 0 for line in lines), default=0), []
    for line in lines:
        if line.tone is None:
            taken += 1
        tones.append(line.tone or taken)
    return tones


def _drawn(line: Line, tone: int, across: Scale, up: Scale) -> _Drawn:
    places = [
        (across.place(step), 1 - up.place(value)) if up.holds(value) and drawable(step) else None
        for step, value in line.points
    ]
    alone = _alone(places)
    marked = {"dots": range(len(places)), "plain": alone}.get(line.look, ())
    dots = [place for n in marked if (place := places[n]) is not None]
    return _Drawn(
        name=one_line(line.name, 60),
        look=line.look,
        tone=(tone - 1) % len(TONES) + 1,
        colour=TONES[(tone - 1) % len(TONES)],
        dash="6 4" if (tone - 1) // len(TONES) % 2 else "",
        path=_path(places, alone),
        dots=tuple((_percent(x), _percent(y)) for x, y in dots),
        data=" ".join(f"{step:.0f},{value:.6g}" for step, value in line.points if drawable(step)),
        words=described([point for point in line.points if drawable(point[1]) and drawable(point[0])]),
    )


def _alone(places: Places) -> list[int]:
    """Which places stand between two gaps, so that no line leads through them."""
    around = [None, *places, None]
    return [n for n, place in enumerate(places) if place and around[n] is None and around[n + 2] is None]


def _path(places: Places, alone: Sequence[int]) -> str:
    """SVG's path through the places; a gap begins it anew, and a place alone becomes a dot."""
    parts: list[str] = []
    begun, lonely = False, set(alone)
    for n, place in enumerate(places):
        if place is None:
            begun = False
            continue
        x, y = (f"{_SIDE * part:.1f}" for part in place)
        parts.append(f"{'L' if begun else 'M'}{x} {y}" + ("h0" if n in lonely else ""))
        begun = True
    return "".join(parts)


def _percent(part: float) -> str:
    """A place along an axis: '12.34%'."""
    return f"{100 * part:.2f}%" if math.isfinite(part) else "0%"
