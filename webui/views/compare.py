"""The Compare screen: several runs on one chart, where their recipes differ, and their samples side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import recipe
from .matrix import Cell, Matrix, matrix
from .metrics import Curve, decimate, smoothed
from .monitor import READERS, Readers
from .state import TITLES, status_of, without_status
from .svg import Line, Panel
from .words import as_id, of, one_line, shown, total, whole

MOST_RUNS = 6
"""More lines than that on one chart cannot be told apart."""
ABSENT = "—"
"""Stands where a run's recipe has no such key."""
_FEW_POINTS = 250


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the runs."""

    id: str
    name: str
    about: str
    state: str
    word: str
    progress: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of the recipe that is not the same in all runs."""

    key: str
    values: tuple[str, ...]
    """By run."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Samples of one prompt at one step."""

    prompt: str
    step: int | None
    """None where the runs share no step, so that each shows its last."""
    cells: tuple[Cell | None, ...]
    """By run."""


@dataclass(frozen=True, slots=True)
class Comparison:
    runs: tuple[Compared, ...]
    panels: tuple[Panel, ...]
    """Loss, validation and learning rate; a line for each run that has them."""
    differences: tuple[Difference, ...]
    samples: tuple[SideBySide, ...]
    """The newest step first, prompts in the order of the first run."""
    notes: tuple[str, ...]
    """What cannot be compared, and why."""


def compare(runs: Sequence[Path], readers: Readers = READERS) -> Comparison:
    """Several runs side by side; beyond the first `MOST_RUNS` they are left out, and a note says so."""
    chosen = list(dict.fromkeys(runs))
    notes = [f"{len(chosen) - MOST_RUNS} more runs are left out"] if len(chosen) > MOST_RUNS else []
    chosen = chosen[:MOST_RUNS]
    names = [one_line(run.name, 60) for run in chosen]
    trees = [recipe.flat(run) for run in chosen]
    notes += [f"{name}: its recipe cannot be read" for name, tree in zip(names, trees, strict=True) if not tree]
    known = [tree for tree in trees if tree]
    numbers = [readers.numbers(run) for run in chosen]
    unread = [name for name, (_, more) in zip(names, numbers, strict=True) if more]
    notes += [f"{name}: its numbers are many, and not all are read yet" for name in unread]
    tables = [matrix(run) for run in chosen]
    samples, said = _samples(tables)
    return Comparison(
        tuple(_run(run) for run in chosen),
        _panels(names, [curves for curves, _ in numbers]),
        _differences(trees) if len(known) > 1 else (),
        samples,
        (*notes, *said),
    )


def _run(run: Path) -> Compared:
    status = status_of(run)
    state = status.state if status else without_status(run)
    progress = of(whole(status.step), total(status.total), "step") if status else ""
    return Compared(as_id(run.name), shown(run.name, 200), recipe.summary(run), state, TITLES[state], progress)


def _panels(names: Sequence[str], curves: Sequence[Mapping[str, Curve]]) -> tuple[Panel, ...]:
    wanted = (
        ("loss", "Loss, smoothed", "plain"),
        ("validation_loss", "Validation loss", "dots"),
        ("lr", "Learning rate", "plain"),
    )
    found = []
    for key, title, look in wanted:
        lines = []
        for tone, (name, own) in enumerate(zip(names, curves, strict=True), 1):
            if key in own:
                points = own[key].points()
                points = decimate(smoothed(points) if key == "loss" else points, _FEW_POINTS)
                lines.append(Line(name, points, look, tone))
        if lines:
            found.append(Panel(key, title, tuple(lines)))
    return tuple(found)


def _differences(trees: Sequence[Mapping[str, Any]]) -> tuple[Difference, ...]:
    """Keys in the order of the first recipe that has them; a recipe that cannot be read counts for nothing."""
    keys = dict.fromkeys(key for tree in trees for key in tree)
    found = []
    for key in keys:
        values = [_spelled(tree[key]) if key in tree else ABSENT for tree in trees]
        if len({value for value, tree in zip(values, trees, strict=True) if tree}) > 1:
            found.append(Difference(one_line(key, 120), tuple(values)))
    return tuple(found)


def _spelled(value: Any) -> str:
    """A value as a recipe has it; text stays text."""
    return shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 300)


def _samples(tables: Sequence[Matrix]) -> tuple[tuple[SideBySide, ...], list[str]]:
    """Pictures at the prompts that every run with samples has, and the steps that they share, else each run's last."""
    drawn = [table for table in tables if table.rows]
    if len(drawn) < 2:
        return (), []
    prompts = [p for p in dict.fromkeys(drawn[0].prompts) if all(p in table.prompts for table in drawn)]
    if not prompts:
        return (), ["the runs have no sample prompt in common"]
    shared = set.intersection(*({row.step for row in table.rows} for table in drawn))
    notes = [] if shared else ["the runs have no step with samples in common, so each shows its last"]
    found = []
    for step in sorted(shared, reverse=True) or [None]:
        for prompt in prompts:
            cells = tuple(_cell(table, prompt, step) for table in tables)
            if any(cells):
                found.append(SideBySide(prompt, step, cells))
    return tuple(found), notes


def _cell(table: Matrix, prompt: str, step: int | None) -> Cell | None:
    """The picture of a prompt at a step; of no step, the newest."""
    for row in table.rows:
        if step is None or row.step == step:
            cell = next((cell for cell in row.cells if cell.prompt == prompt and cell.href), None)
            if cell is not None:
                return cell
    return None
