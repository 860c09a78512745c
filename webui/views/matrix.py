"""The samples of a run as a table: a row for each step, the newest first, and a column for each prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tuner.errors import StorageError
from tuner.lines import read_json_lines
from tuner.rundir import RunDir

from . import recipe
from .files import NOTHING, Mark, folder_mark, mark, step_names
from .words import shown

MOST_ROWS = 60
"""Steps that are shown; older ones are counted."""
MOST_COLUMNS = 40
LARGEST_INDEX = 1 << 20
"""Bytes of the largest list of a step's samples that is read."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture, or the place of one that is missing."""

    step: int
    index: int
    """Its number among the step's prompts; what its address ends in."""
    prompt: str
    seed: int | None
    """None where the recipe no longer asks for this prompt at this place."""
    href: str
    """Empty where the picture is missing."""
    version: str
    """Another one where the picture was drawn anew."""
    fresh: bool
    """Whether it came since the last look."""


@dataclass(frozen=True, slots=True)
class Row:
    step: int
    cells: tuple[Cell, ...]
    """One a column; without a picture where this step has none of that prompt."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """The samples of a run."""

    prompts: tuple[str, ...]
    """Of the columns. One prompt asked for twice has two."""
    rows: tuple[Row, ...]
    older: int = 0
    """Steps that are not shown."""
    notes: tuple[str, ...] = ()
    """Steps and files that cannot be shown, and why."""

    @property
    def empty(self) -> bool:
        return not self.rows

    @property
    def newest(self) -> Cell | None:
        """The newest picture of the first prompt that has one."""
        return next((cell for row in self.rows for cell in row.cells if cell.href), None)

    @property
    def newest_ns(self) -> int:
        """When the newest of the pictures changed, in ns; 0 without one."""
        return max((int(cell.version, 16) for row in self.rows for cell in row.cells if cell.href), default=0)


@dataclass(frozen=True, slots=True)
class _Step:
    """What the folder of a step holds."""

    entries: tuple[tuple[int, str, int], ...]
    """(index, prompt, when the picture changed in ns, or 0 where it is missing)."""
    fault: str = ""


def marks(run: Path) -> tuple[tuple[int, Mark, bool], ...]:
    """What tells whether a sample came, went or changed: the shown steps and the state of their folders."""
    folder = RunDir(run).samples
    steps = sorted(step_names(folder), reverse=True)[:MOST_ROWS]
    states = ((step, folder_mark(folder / str(step))) for step in steps)
    return tuple((step, state, state.settled) for step, state in states)


def matrix(run: Path, *, since_ns: int | None = None) -> Matrix:
    """The samples of a run.

    Args:
        run: its directory.
        since_ns: pictures that changed after it are marked as fresh; None marks none.
    """
    folder = RunDir(run).samples
    every = sorted(step_names(folder), reverse=True)
    found = {step: _contents(folder / str(step)) for step in every[:MOST_ROWS]}
    columns, dropped = _columns([content for content in found.values() if content.entries])
    seed, asked = recipe.seed(run), recipe.prompts(run)
    rows = tuple(
        Row(step, _cells(run.name, step, content, columns, seed, asked, since_ns))
        for step, content in found.items()
        if content.entries
    )
    notes = [f"step {step}: {content.fault}" for step, content in found.items() if content.fault]
    if dropped:
        notes.append(f"{dropped} more prompts are not shown")
    texts = tuple(shown(prompt) for prompt, _ in columns)
    return Matrix(texts, rows, max(len(every) - MOST_ROWS, 0), tuple(notes))


def last_sample(run: Path) -> Cell | None:
    """The newest picture of a run's first prompts, without looking at more steps than needed."""
    folder = RunDir(run).samples
    for step in sorted(step_names(folder), reverse=True)[:MOST_ROWS]:
        for index, prompt, changed in _contents(folder / str(step)).entries:
            if changed:
                return Cell(step, index, shown(prompt), None, href(run.name, step, index), f"{changed:x}", fresh=False)
    return None


def href(run: str, step: int, index: int) -> str:
    """The address of a sample."""
    return f"/media/sample/{quote(os.fsencode(run), safe='')}/{step}/{index}"


def _columns(contents: Sequence[_Step]) -> tuple[list[tuple[str, int]], int]:
    """(prompt, which time it is asked for) of each column, as the newest step has them, older ones behind."""
    found: dict[tuple[str, int], None] = {}
    for content in contents:
        found.update(dict.fromkeys(_keys(content)))
    return list(found)[:MOST_COLUMNS], max(len(found) - MOST_COLUMNS, 0)


def _keys(content: _Step) -> list[tuple[str, int]]:
    seen: dict[str, int] = {}
    keys = []
    for _, prompt, _ in content.entries:
        keys.append((prompt, seen.get(prompt, 0)))
        seen[prompt] = seen.get(prompt, 0) + 1
    return keys


def _cells(
    name: str,
    step: int,
    content: _Step,
    columns: Sequence[tuple[str, int]],
    seed: int | None,
    asked: Sequence[str],
    since_ns: int | None,
) -> tuple[Cell, ...]:
    here: Mapping[Any, tuple[int, str, int]] = dict(zip(_keys(content), content.entries, strict=True))
    cells = []
    for column, key in enumerate(columns):
        index, prompt, changed = here.get(key, (column, key[0], 0))
        known = seed is not None and key in here and index < len(asked) and asked[index] == prompt
        cells.append(
            Cell(
                step,
                index,
                shown(prompt),
                seed + index if known and seed is not None else None,
                href(name, step, index) if changed else "",
                f"{changed:x}" if changed else "",
                bool(changed) and since_ns is not None and changed > since_ns,
            )
        )
    return tuple(cells)


def _contents(folder: Path) -> _Step:
    """`_step`, remembered only where no change can hide behind the same mark."""
    state = folder_mark(folder)
    return _step(folder, state) if state.settled else _step.__wrapped__(folder, state)


@lru_cache(maxsize=4096)
def _step(folder: Path, state: Mark) -> _Step:
    """What a step's folder holds. A change in it changes the folder's own mark, so that what is remembered is true."""
    index = folder / "index.jsonl"
    found = mark(index)
    if state is NOTHING or not found:
        return _Step(())  # its pictures are still being written: the list comes last
    if found.size > LARGEST_INDEX:
        return _Step((), "its list of samples is larger than any of ours, so they are not shown")
    entries: dict[int, tuple[int, str, int]] = {}
    try:
        for row in read_json_lines(index):
            number, prompt = row.get("index"), row.get("prompt")
            if not isinstance(number, int) or not isinstance(prompt, str):
                continue
            if 0 <= number < 10**6 and row.get("file") == f"{number}.png":
                entries[number] = (number, prompt, mark(folder / f"{number}.png").changed_ns)
    except StorageError:
        return _Step((), "its list of samples may not be read")
    if not entries:
        return _Step((), "its list of samples is damaged, so they are not shown")
    return _Step(tuple(entries[number] for number in sorted(entries)))
