"""The same measures for every adapter, whoever made it; what was measured is kept beside its cell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from .matrix import read, write
from .table import Measure, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .matrix import Matrix
    from .subjects import Taught

BASE = "base"
"""The column of the base without an adapter."""
FIGURES = "figures.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of one adapter."""

    key: str
    title: str
    better: int
    """As in `table.Measure`."""
    adapter: float
    base: float | None
    """The same of the base alone; None where that is 0 by definition."""


class Meter(Protocol):
    """What measures."""

    @property
    def key(self) -> str:
        """Tells its figures from another meter's: judges, prompts, seeds, settings, code."""
        ...

    def figures(self, adapter: Path, subject: Taught, out: Path) -> Sequence[Figure]:
        """Every measure of one adapter; `out` takes pictures and reports."""
        ...


def measure(matrix: Matrix, meter: Meter, said: Callable[[str], None]) -> dict[Path, list[Figure]]:
    """The figures of each cell that is done, by its folder; each cell is measured once and its figures are kept."""
    done = [cell for cell in matrix.cells() if cell.timed is not None]
    found = {}
    for number, cell in enumerate(done, 1):
        kept = read(cell.place / FIGURES)
        if kept is None or kept["key"] != meter.key:
            said(f"measuring {number} of {len(done)}: {cell.label}")
            figures = [
                asdict(figure) for figure in meter.figures(cell.adapter, cell.subject, cell.place / "evaluation")
            ]
            kept = {"key": meter.key, "figures": figures}
            write(cell.place / FIGURES, json.dumps(kept, indent=1) + "\n")
        found[cell.place] = [Figure(**figure) for figure in kept["figures"]]
    return found


def measures(figures: Mapping[Path, Sequence[Figure]]) -> list[Measure]:
    """The rows of the table that the figures fill, in their order."""
    rows = {figure.key: Measure(figure.key, figure.title, figure.better) for own in figures.values() for figure in own}
    return list(rows.values())


def base_results(matrix: Matrix, figures: Mapping[Path, Sequence[Figure]]) -> list[Result]:
    """The base's column: one value a subject, since no training enters it."""
    found: dict[str, Result] = {}
    for cell in matrix.cells():
        own = {figure.key: figure.base for figure in figures.get(cell.place, ()) if figure.base is not None}
        if own:
            found.setdefault(cell.subject.name, Result(cell.subject.name, 0, BASE, own))
    return list(found.values())
