"""The runs that the Start screen lists, the latest first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tuner.rundir import RunDir

from . import recipe, words
from .files import folder_mark, mark, names
from .matrix import Cell, last_sample
from .state import TITLES, TONES, status_of, without_status


@dataclass(frozen=True, slots=True)
class RecentRun:
    """One run in a list. Texts are empty where nothing is known."""

    id: str
    """The name of its directory, as the workspace knows it; empty where a page cannot hold it."""
    name: str
    """The same, fit to be shown."""
    state: str
    """As in `Head.state`."""
    word: str
    """What the state is called."""
    tone: str
    """live, good, bad or idle."""
    about: str
    """'lora on sd15'."""
    step: int
    total: int | None
    progress: str
    """'120 of 800 steps'."""
    age: str
    """'4 minutes ago': when it was started, or started again."""
    sample: str
    """Address of the newest sample of the first prompt."""
    version: str
    """Another one where that picture was drawn anew."""


def recent(runs: Path, limit: int = 8, now: float | None = None) -> list[RecentRun]:
    """The latest runs of a folder, by when they were started.

    Args:
        runs: the folder that holds them; one that is not there has none.
        limit: how many at most.
        now: Unix seconds.
    """
    now = time.time() if now is None else now
    return [_told(runs / name, now) for name in latest(runs)[: max(limit, 0)]]


def latest(runs: Path) -> list[str]:
    """The names of every run, the latest start first; two looks at each folder, however many there are."""
    found = [(_touched(runs / name), name) for name in names(runs) if not name.startswith(".")]
    return [name for _, name in sorted(((touched, name) for touched, name in found if touched), reverse=True)]


def _touched(run: Path) -> int | None:
    """When a run was last begun, in ns: resolved.yaml is written then. None for what is no run."""
    place = RunDir(run)
    if run.is_symlink() or not folder_mark(run):
        return None
    known = mark(place.resolved_file) or mark(place.status_file)
    return known.changed_ns if known else None


def _told(run: Path, now: float) -> RecentRun:
    status = status_of(run)
    state = status.state if status else without_status(run)
    step, total = (words.whole(status.step), words.total(status.total)) if status else (0, None)
    started = words.number(status.started) if status else None
    cell: Cell | None = last_sample(run)
    return RecentRun(
        id=words.as_id(run.name),
        name=words.shown(run.name, 200),
        state=state,
        word=TITLES[state],
        tone=TONES.get(state, "live"),
        about=recipe.summary(run),
        step=step,
        total=total,
        progress=words.of(step, total, "step") if status and state != "queued" else "",
        age=words.ago(None if started is None else now - started),
        sample=cell.href if cell else "",
        version=cell.version if cell else "",
    )
