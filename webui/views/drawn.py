"""A grid that a job draws, cell by cell, as a page shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .files import mark, text
from .words import one_line, shown

INDEX = "grid.json"
LARGEST = 4 << 20
"""Bytes of the largest list of cells that is read."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One cell."""

    href: str
    """Empty until it is drawn."""
    told: str
    """What it shows, in words."""
    strength: float | None


@dataclass(frozen=True, slots=True)
class GridView:
    """A grid of a job, drawn or under way."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    """Empty texts where there is one row alone."""
    cells: tuple[tuple[Drawn, ...], ...]
    """By row."""
    sheet: str
    """Address of the whole as one picture; empty until it is there."""

    @property
    def pair(self) -> tuple[Drawn, Drawn] | None:
        """Without and with the adapter, where that is all there is."""
        if len(self.cells) != 1 or len(self.cells[0]) != 2:
            return None
        first, second = self.cells[0]
        return (first, second) if first.strength == 0 and first.href and second.href else None

    @property
    def done(self) -> int:
        return sum(bool(cell.href) for row in self.cells for cell in row)

    @property
    def total(self) -> int:
        return sum(map(len, self.cells))


def grid(job: str, folder: Path) -> GridView | None:
    """The grid in the folder of a job's files; None until there is one that can be read.

    Args:
        job: the id that the addresses of its pictures name.
        folder: where they lie.
    """
    try:
        tree = json.loads(text(folder / INDEX, LARGEST) or "")
        across, down = tree["axes"]["x"], tree["axes"].get("y")
        columns = tuple(one_line(label, 300) for label in across["labels"])
        rows = tuple(one_line(label, 300) for label in down["labels"]) if down else ("",)
        places = {(int(cell["row"]), int(cell["column"])): cell for cell in tree["cells"]}
        cells = tuple(
            tuple(_cell(job, places[row, column]) for column in range(len(columns))) for row in range(len(rows))
        )
        sheet = one_line(tree["sheet"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return GridView(columns, rows, cells, _href(job, sheet) if mark(folder / sheet) else "")


def _cell(job: str, cell: dict[str, Any]) -> Drawn:
    strength = cell["strength"]
    said = [f"strength {strength:g}"] if isinstance(strength, int | float) else []
    told = ", ".join([shown(cell["prompt"], 300), f"seed {cell['seed']}", *said])
    return Drawn(_href(job, str(cell["file"])) if cell["drawn"] else "", told, strength)


def _href(job: str, name: str) -> str:
    return f"/media/job/{quote(job, safe='')}/{quote(name, safe='')}"
