"""A grid's folder: a PNG for each cell as soon as it is drawn, `grid.json`, and the whole as `grid.png`."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from . import atomic
from .errors import UsageError
from .grid_drawing import draw
from .grid_sheet import GridSheet
from .png_file import write_picture

if TYPE_CHECKING:
    from pathlib import Path

    from .grids import Cell, Grid
    from .watch import Watcher

INDEX, SHEET = "grid.json", "grid.png"


def check_folder(folder: Path) -> None:
    """Raises: UsageError where a grid is there already, or no folder can be."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "give the name of a folder to --out")
    if (folder / INDEX).exists():
        raise UsageError(f"{folder} holds a grid already", "choose another folder: --out FOLDER")


def make(grid: Grid, folder: Path, watcher: Watcher) -> dict[str, Any]:
    """Draw a grid into a folder; gives the content of `grid.json`.

    `grid.json` is there from the start and names the cells that are `drawn`; the sheet comes last.

    Raises: UsageError where a grid is there already; DataError, NumbersError, StorageError.
    """
    check_folder(folder)
    with atomic.storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    drawn: set[str] = set()
    _write_index(folder, grid, drawn, durable=True)
    first = grid.cells[0].shot
    rows = grid.y.labels if grid.y else []
    sheet = GridSheet(grid.x.labels, rows, first.size, _title(grid))
    for cell, picture in draw(grid, watcher):
        write_picture(folder / cell.file, picture, cell.shot, cell.adapters)
        sheet.put(cell.row, cell.column, picture)
        drawn.add(cell.file)
        _write_index(folder, grid, drawn, durable=len(drawn) == len(grid.cells))
        watcher.say(f"{folder / cell.file}: {_told(cell)}")
    data = io.BytesIO()
    sheet.picture.save(data, "PNG")
    atomic.write(folder / SHEET, data.getvalue())
    return _index(grid, drawn)


def _write_index(folder: Path, grid: Grid, drawn: set[str], *, durable: bool) -> None:
    text = json.dumps(_index(grid, drawn), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    atomic.write(folder / INDEX, text, durable=durable)


def _index(grid: Grid, drawn: set[str]) -> dict[str, Any]:
    facts = grid.facts()
    cells = [cell | {"drawn": cell["file"] in drawn} for cell in facts["cells"]]
    return {"schema": 1, "sheet": SHEET, **facts, "cells": cells}


def _told(cell: Cell) -> str:
    from .grid_axes import label

    return ", ".join(label(name, value) for name, value in cell.settings.items())


def _title(grid: Grid) -> str:
    """What the axes do not say, where it is the same in every cell."""
    varied = {grid.x.name, *([grid.y.name] if grid.y else [])}
    shot, worn = grid.cells[0].shot, next((cell.adapters for cell in grid.cells if cell.adapters), ())
    facts = {
        "prompt": shot.prompt,
        "seed": f"seed {shot.seed}",
        "steps": f"{shot.steps} steps",
        "guidance": f"guidance {shot.guidance:g}",
    }
    said = [text for name, text in facts.items() if name not in varied]
    adapter = worn[0].rpartition(":")[0].partition("@")[0] if worn else ""
    return " | ".join(filter(None, [*said, adapter]))
