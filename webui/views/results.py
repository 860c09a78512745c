"""The Results screen: what a run saved, how good each save is known to be, and which is the best, and by what."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import best as validation
from tuner.errors import StorageError
from tuner.evaluation.report import Report, Row
from tuner.evaluation.report import shown as shown_number
from tuner.rundir import RunDir

from .adapter_files import Folder, folder
from .files import folder_mark, mark, step_names, text
from .state import saved_steps, status_of
from .words import count, figure, number, one_line, shown

LARGEST_RECORD = 8 << 20
"""Bytes of the largest validation.json or report.json that is read."""
FIDELITY = ("subject fidelity", "style fidelity")
"""What of the yardstick says how well the thing itself was learned."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of the yardstick, as texts."""

    question: str
    name: str
    judge: str
    base: str
    """Without the adapter."""
    adapter: str
    photos: str
    """Of the pictures themselves, where that says what to expect."""
    better: str
    """'higher', 'lower', or empty."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One save of a run."""

    step: int | None
    """None for final files whose step nobody tells."""
    final: bool
    """Whether these are the files of the finished run."""
    folder: Folder
    validation: str
    """The loss on held-out pictures; empty where it was not measured at this step."""
    figures: tuple[Figure, ...]
    """What `tuner eval` measured; empty where it was not asked."""
    resumable: bool
    """Whether the run could go on from here."""
    marks: tuple[str, ...]
    """Why it stands out: 'best by validation loss', 'best by the yardstick', 'last'."""

    @property
    def title(self) -> str:
        return "final files" if self.step is None else f"step {self.step:,}"


@dataclass(frozen=True, slots=True)
class BestSave:
    """The best of the saves."""

    step: int
    by: str
    """validation or yardstick."""
    words: str
    """Which it is, by what, and among how many."""


@dataclass(frozen=True, slots=True)
class Results:
    """What a run saved, the newest first."""

    run: str
    state: str
    """As in `Head.state`; `unknown` where nobody tells."""
    saves: tuple[Saved, ...]
    best: BestSave | None
    also: BestSave | None
    """What the yardstick says, where validation says another."""
    said: str
    """A sentence: which is the best and by what, or why nobody knows, or that nothing is saved yet."""
    notes: tuple[str, ...]
    """Files that cannot be read, and why."""

    def save(self, step: int | None) -> Saved | None:
        """The save of a step; None takes the best one, else the newest."""
        if step is None:
            step = self.best.step if self.best else None
        chosen = next((save for save in self.saves if save.step == step), None)
        return chosen or (self.saves[0] if self.saves and step is None else None)


def results(run: Path) -> Results:
    """What a run saved."""
    place, status = RunDir(run), status_of(run)
    notes: list[str] = []
    losses = _losses(place.validation_file, notes)
    last = status.step if status else None
    folders = _folders(place, last if status and status.state == "done" else None)
    reports = _reports(run, {step for step in folders if step is not None}, last, notes)
    steps = [step for step in folders if step is not None]
    by_loss, by_yardstick = _by_validation(losses, steps), _by_yardstick(reports)
    resumable = set(saved_steps(run) or ())
    saves = []
    for step, (path, final) in folders.items():
        stands_out = (by_loss, "best by validation loss"), (by_yardstick, "best by the yardstick")
        marks = [words for found, words in stands_out if found and found.step == step] + ["last"] * final
        loss = losses.get(step) if step is not None else None
        figures = tuple(_figure(row) for row in reports[step].rows) if step in reports else ()
        saves.append(Saved(step, final, folder(path), figure(loss), figures, step in resumable, tuple(marks)))
    best = by_loss or by_yardstick
    also = by_yardstick if by_loss and by_yardstick and by_loss.step != by_yardstick.step else None
    state = status.state if status else "unknown"
    said = _said(state, len(saves), best, measured=bool(losses), judged=len(reports))
    return Results(shown(run.name), state, tuple(saves), best, also, said, tuple(notes))


def _folders(place: RunDir, done: int | None) -> dict[int | None, tuple[Path, bool]]:
    """By step, the newest first: the folder of its files, and whether they are the finished run's."""
    found: dict[int | None, tuple[Path, bool]] = {}
    for step in sorted(step_names(place.checkpoints), reverse=True):
        path = place.checkpoints / str(step) / "adapter"
        if folder_mark(path):
            found[step] = (path, False)
    if folder_mark(place.adapter):
        step = done if done is not None else next(iter(found), None)
        found = {step: (place.adapter, True)} | {at: value for at, value in found.items() if at != step}
    return found


def _losses(path: Path, notes: list[str]) -> dict[int, float]:
    """The validation loss by step; what cannot be read becomes a note."""
    found = mark(path)
    if not found:
        return {}
    if found.size > LARGEST_RECORD:
        notes.append("validation.json is larger than any of ours, so it is not read")
        return {}
    try:
        return {step: value.loss for step, value in validation.read(path)["values"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, ArithmeticError, StorageError):
        notes.append("validation.json was damaged, so no save has a validation loss here")
        return {}


def _reports(run: Path, steps: set[int], last: int | None, notes: list[str]) -> dict[int | None, Report]:
    """What `tuner eval` wrote, by step; that of the final files stands at the last step."""
    place = run / "evaluation"
    files: dict[int | None, Path] = {step: place / str(step) / "report.json" for step in steps}
    final = place / "report.json"
    found: dict[int | None, Report] = {}
    for step, path in files.items():
        if (report := _report(path, notes)) is not None:
            found[step] = report
    if (report := _report(final, notes)) is not None:
        found.setdefault(last if last in steps else max(steps, default=None), report)
    return found


def _report(path: Path, notes: list[str]) -> Report | None:
    content = text(path, LARGEST_RECORD)
    if content is None:
        return None
    try:
        report = Report.from_json(content)
        rows = tuple(row for row in report.rows if _is_sound(row))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError):
        notes.append(f"{path.parent.name}/{path.name} was damaged, so what was measured is not shown")
        return None
    if len(rows) < len(report.rows):
        notes.append(f"{path.parent.name}/{path.name}: {count(len(report.rows) - len(rows), 'row')} cannot be read")
    return Report(rows, report.facts, ())


def _is_sound(row: Row) -> bool:
    """Whether a row holds what a row of ours does; a file says what it likes."""
    texts = (row.group, row.name, row.judge, row.better)
    numbers = (row.base, row.adapter, row.reference)
    return all(isinstance(item, str) for item in texts) and all(
        item is None or (number(item.mean) is not None and number(item.error) is not None and isinstance(item.n, int))
        for item in numbers
    )


def _figure(row: Row) -> Figure:
    base, adapter, photos = (shown_number(item) for item in (row.base, row.adapter, row.reference))
    question, name, judge = (one_line(item, 80) for item in (row.group, row.name, row.judge))
    return Figure(question, name, judge, base, adapter, photos, one_line(row.better, 20))


def _by_validation(losses: Mapping[int, float], steps: Sequence[int]) -> BestSave | None:
    """The lowest finite loss among the saved steps, the earliest of equal ones, as `tuner.best` has it."""
    known = [(losses[step], step) for step in steps if step in losses and math.isfinite(losses[step])]
    if not known:
        return None
    loss, step = min(known)
    among = f"the lowest of {count(len(known), 'save')}" if len(known) > 1 else "the only save that was measured"
    return BestSave(step, "validation", f"Step {step:,}: its validation loss, {figure(loss)}, is {among}.")


def _by_yardstick(reports: Mapping[int | None, Report]) -> BestSave | None:
    """The save that is most like what it learned from, where at least two were measured in the same way."""
    measured = {step: report for step, report in reports.items() if step is not None}
    if len(measured) < 2 or len({_way(report) for report in measured.values()}) > 1:
        return None
    tables = {step: {row.key: row for row in report.rows} for step, report in measured.items()}
    shared = set.intersection(*(set(table) for table in tables.values()))
    first = next(iter(tables.values()))
    wanted = [row for row in first.values() if row.key in shared and row.group in FIDELITY and row.better == "higher"]
    if not wanted:
        return None
    chosen = min(wanted, key=lambda row: (FIDELITY.index(row.group), row.judge != "DINO", "contexts" not in row.name))
    step = max(sorted(tables), key=lambda at: tables[at][chosen.key].adapter.mean)
    value = tables[step][chosen.key].adapter.mean
    what = one_line(f"{chosen.group} ({chosen.name}, {chosen.judge})", 120)
    return BestSave(
        step, "yardstick", f"Step {step:,}: its {what}, {value:.3f}, is the highest of {len(tables)} measured."
    )


def _way(report: Report) -> str:
    """How a report was measured; numbers of different ways cannot be compared."""
    facts: dict[str, Any] = dict(report.facts) if isinstance(report.facts, Mapping) else {}
    kept = {key: facts.get(key) for key in ("base", "subject", "class", "prompts", "side", "asking", "judges")}
    return json.dumps(kept, sort_keys=True, default=str)


def _said(state: str, saves: int, best: BestSave | None, *, measured: bool, judged: int) -> str:
    if not saves:
        over = state in ("done", "stopped", "failed", "interrupted")
        return "Nothing was saved." if over else "Nothing is saved yet. The first save appears here by itself."
    if best:
        return f"The best is {best.words[0].lower()}{best.words[1:]}"
    if saves == 1:
        return "There is one save."
    why = "validation measured none of them" if measured else "this run had no validation"
    return (
        f"Which of the {saves} saves is the best is not known: {why}, and "
        + ("only one was measured with the yardstick." if judged == 1 else "none was measured with the yardstick.")
        + " The last one is the usual choice; the samples may tell more."
    )
