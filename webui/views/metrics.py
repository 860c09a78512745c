"""metrics.jsonl as curves: read on from where the last look ended, thinned without losing a peak, smoothed."""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .files import NOTHING, Mark, mark
from .words import number

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from .svg import Points

CHUNK = 1 << 20
"""Bytes read at a time; a line that is longer is none of ours and is passed over."""
BUDGET = 32 << 20
"""Bytes read in one look, so that no page waits for a file of gigabytes; the next look goes on."""
HEAD = 256
"""Bytes at the start of a file by which it is known again."""
MOST_NAMES = 200
"""Curves of one run; a run of ours has some ten."""
LAST_STEP = 10**15
"""No run has so many steps."""
MOST_KEPT = 100_000
"""Points of a curve that are kept in memory; beyond it the curve is thinned to half of that, its peaks kept."""
MOST_POINTS = 500
"""Points of a curve that is drawn."""


_Step = TypeVar("_Step", int, float)


class Curve:
    """The values of one name by step, ascending.

    A run that goes on from an earlier step writes some steps again: what came after that step belonged to weights that
    are gone, so it goes.
    """

    __slots__ = ("steps", "values")

    def __init__(self) -> None:
        self.steps, self.values = array("q"), array("d")

    def __len__(self) -> int:
        return len(self.steps)

    def put(self, step: int, value: float) -> None:
        if self.steps and step <= self.steps[-1]:
            place = bisect_left(self.steps, step)
            del self.steps[place:], self.values[place:]
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) > MOST_KEPT:
            kept = decimate(self.points(), MOST_KEPT // 2)
            self.steps, self.values = array("q", (step for step, _ in kept)), array("d", (value for _, value in kept))

    def points(self) -> list[tuple[int, float]]:
        return list(zip(self.steps, self.values, strict=True))


@dataclass(frozen=True, slots=True)
class Oddities:
    """What a metrics file holds that could not be shown."""

    lines: int = 0
    """Lines that are no measurement of ours, or longer than any."""
    names: int = 0
    """Measurements beyond the first `MOST_NAMES` names."""

    def __bool__(self) -> bool:
        return bool(self.lines or self.names)


class MetricsReader:
    """One metrics.jsonl, read as it grows. Each look reads only what came since the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._restart()

    def _restart(self) -> None:
        self.curves: dict[str, Curve] = {}
        self._mark, self._offset, self._head, self._within = NOTHING, 0, b"", False
        self._lines = self._names = 0
        self.behind = False
        """Whether there is more in the file than one look reads."""

    @property
    def total(self) -> int:
        """Measurements that are held, of every name."""
        return sum(map(len, self.curves.values()))

    @property
    def oddities(self) -> Oddities:
        return Oddities(self._lines, self._names)

    def look(self) -> Mark:
        """Read on. A file that shrank, or is another one, is read from its start. Returns what identifies its state."""
        found = mark(self.path)
        if not found:
            self._restart()
            return found
        if found == self._mark and not self.behind:
            return found
        try:
            with self.path.open("rb") as file:
                if not self._goes_on(file, found):
                    self._restart()
                self._mark = found
                self._read(file)
        except OSError:  # gone between two moments, or not ours to read: the next look tries again
            self._restart()
            return NOTHING
        return found

    def _goes_on(self, file: BinaryIO, found: Mark) -> bool:
        """Whether this is the file that was read before, with no less in it."""
        if not self._mark:
            return True
        head = file.read(len(self._head))
        return found.inode == self._mark.inode and found.size >= self._offset and head == self._head

    def _read(self, file: BinaryIO) -> None:
        if len(self._head) < HEAD:
            file.seek(0)
            self._head = file.read(HEAD)
        end = self._offset + BUDGET
        file.seek(self._offset)
        while self._offset < end and (chunk := file.read(CHUNK)):
            whole = chunk.rfind(b"\n") + 1
            if not whole and len(chunk) < CHUNK:
                break  # the start of a line whose rest is still to come
            if whole:
                lines = chunk[: whole - 1].split(b"\n")
                for line in lines[1:] if self._within else lines:
                    self._take(line)
            elif not self._within:
                self._lines += 1
            self._within = not whole
            self._offset += whole or len(chunk)
            file.seek(self._offset)
        self.behind = self._offset >= end

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            self._lines += 1
            return
        step, name, value = row.get("step"), row.get("name"), row.get("value")
        if isinstance(step, bool) or not isinstance(step, int) or not isinstance(name, str):
            self._lines += 1
            return
        if not 0 <= step < LAST_STEP or not (value is None or isinstance(value, int | float)):
            self._lines += 1
            return
        if name not in self.curves:
            if len(self.curves) >= MOST_NAMES:
                self._names += 1
                return
            self.curves[name] = Curve()
        found = number(value)
        self.curves[name].put(step, math.nan if found is None else found)


def decimate(points: Sequence[tuple[_Step, float]], most: int = MOST_POINTS) -> list[tuple[_Step, float]]:
    """At most `most` of the points (3 or more): both ends, and the least and the greatest of every stretch between.

    A stretch without a finite value keeps one gap, so that the line still breaks there.
    """
    if len(points) <= most:
        return list(points)
    import numpy as np

    values = np.array([value for _, value in points[1:-1]], dtype=np.float64)
    width = -(-len(values) // max((most - 2) // 2, 1))
    room = np.full(-(-len(values) // width) * width, np.nan)
    room[: len(values)] = values
    table = room.reshape(-1, width)
    known = np.isfinite(table)
    lowest = np.where(known, table, np.inf).argmin(axis=1)
    highest = np.where(known, table, -np.inf).argmax(axis=1)
    starts = np.arange(len(table)) * width + 1
    chosen = np.unique(np.concatenate([starts + lowest, starts + highest]))
    return [points[0], *(points[place] for place in chosen.tolist()), points[-1]]


def smoothed(points: Points, weight: float | None = None) -> list[tuple[float, float]]:
    """The exponential mean of the values so far, without the pull to zero at its start; gaps stay gaps.

    m_i = w m_(i-1) + (1 - w) v_i, divided by 1 - w^i (Kingma and Ba 2014, section 3).

    Args:
        points: what to smooth.
        weight: w, in [0, 1). None takes about a twenty-fifth of the curve for the span 1 / (1 - w), rounded to a power
            of two so that a curve that grows seldom changes its looks.
    """
    old = 1 - 0.5 ** round(math.log2(max(len(points) / 25, 4))) if weight is None else weight
    mean, counted = 0.0, 1.0
    out = []
    for step, value in points:
        if math.isfinite(value):
            mean = old * mean + (1 - old) * value
            counted *= old
            out.append((step, mean / (1 - counted)))
        else:
            out.append((step, math.nan))
    return out
