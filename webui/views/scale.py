"""The axes of a chart: which part of the numbers is shown, where a value lies in it, and which ticks are round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LARGEST = 1e300
"""Numbers beyond it have no differences that a float can hold, so they are not drawn."""
_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`, which differ."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    """(value, label), ascending, within the axis."""
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, from 0 at `low` to 1 at `high`."""
        if self.log:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def holds(self, value: float) -> bool:
        """Whether a value can be drawn on this kind of axis at all."""
        return drawable(value, log=self.log)


def drawable(value: float, *, log: bool = False) -> bool:
    """Whether an axis can show the value: finite, not beyond all measure, and on a log scale above 0."""
    return math.isfinite(value) and abs(value) <= LARGEST and (not log or value >= 1 / LARGEST)


def steps_scale(values: Iterable[float]) -> Scale:
    """The axis of steps: just those that there are, ticks at whole numbers."""
    found = list(values)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if high <= low:
        return Scale(low - 1, low + 1, ((low, step_label(low)),))
    gap = max(1.0, _gap(low, high, 4))
    first = math.ceil(low / gap)
    ticks = tuple((n * gap, step_label(n * gap)) for n in range(first, math.floor(high / gap) + 1))
    return Scale(low, high, ticks)


def linear_scale(values: Iterable[float]) -> Scale:
    """The axis of measured values, from a tick to a tick; equal values lie in its middle."""
    low, high = _bounds(values)
    gap = _gap(low, high, 4)
    first, last = math.floor(low / gap), math.ceil(high / gap)
    ticks = tuple((n * gap, _label(n * gap, gap)) for n in range(first, last + 1))
    return Scale(first * gap, last * gap, ticks)


def log_scale(values: Iterable[float]) -> Scale:
    """The axis of measured values above 0, where equal ratios are equal lengths."""
    found = list(values)
    low, high = (min(found), max(found)) if found else (0.1, 1.0)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks = [m * 10.0**n for n in range(first, last + 1) for m in (1, 2, 5)]
    below = max((m for m in marks if m <= low), default=marks[0])
    above = min((m for m in marks if m >= high), default=marks[-1] * 2)
    if above <= below:
        below, above = below / 2, above * 2
    inside = [m for m in marks if below <= m <= above]
    if len(inside) > 6:
        decades = [m for m in inside if _is_decade(m)]
        every = -(-len(decades) // 6)
        inside = decades[::every]
    return Scale(below, above, tuple((m, f"{m:.3g}") for m in inside), log=True)


def _is_decade(value: float) -> bool:
    return abs(math.log10(value) - round(math.log10(value))) < 1e-9


def _bounds(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    if not found:
        return 0.0, 1.0
    low, high = min(found), max(found)
    most = max(abs(low), abs(high))
    if high - low > most * 1e-9 and high - low > 1e-280:
        return low, high
    room = most * 0.1 if most > 1e-270 else 1.0
    return low - room, high + room


def _gap(low: float, high: float, about: int) -> float:
    """A round distance that divides the axis into at most `about` parts, and a bit."""
    rough = (high - low) / about
    size = 10.0 ** math.floor(math.log10(rough))
    return next(gap * size for gap in _ROUND if gap * size >= rough * 0.999)


def _label(value: float, gap: float) -> str:
    if abs(value) < gap / 1e6:
        return "0"
    digits = max(0, -math.floor(math.log10(gap) + 1e-9))
    if round(gap / 10.0**-digits, 6) % 1:
        digits += 1
    if digits <= 4 and abs(value) < 1e5:
        return f"{value:.{digits}f}"
    return _with_exponent(value, gap)


def _with_exponent(value: float, gap: float) -> str:
    """'9.5e-5', as exact as the ticks are apart."""
    apart = math.floor(math.log10(gap) + 1e-9)
    finer = round(gap / 10.0**apart, 6) % 1 > 0  # ticks 2.5 apart
    digits = min(max(math.floor(math.log10(abs(value)) + 1e-9) - apart, 0) + finer, 4)
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def step_label(step: float) -> str:
    """'800', '12.5k', '3M': a step as a tick has room for."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(step) >= size:
            return f"{step / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{step:,.0f}"


def described(points: Sequence[tuple[float, float]]) -> str:
    """A line in words for who cannot see it: where it starts, ends and is lowest."""
    known = [(step, value) for step, value in points if math.isfinite(value)]
    if not known:
        return "no values yet"
    low = min(known, key=lambda point: point[1])
    (first, start), (last, end) = known[0], known[-1]
    if len(known) == 1:
        return f"{start:.4g} at step {first:.0f}"
    return f"{start:.4g} at step {first:.0f}, {end:.4g} at step {last:.0f}, lowest {low[1]:.4g} at step {low[0]:.0f}"
