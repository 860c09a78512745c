"""What every page works with: the workspace, its queue, and the components that several pages share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from tuner import rundir
from tuner.errors import TunerError
from webui.jobs.queue import Queue
from webui.views.recent import latest
from webui.views.words import as_id, shown
from webui.workspace import UnknownId, Workspace

_JOBS = 50
"""The latest ones, whose runs may have no status yet."""
START, PHOTOS, TRAIN, RUNS, COMPARE = "start", "photos", "train", "runs", "compare"
"""Ids of the tabs."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Made once for a server; holds nothing of a visitor."""

    workspace: Workspace
    queue: Queue

    def run_choices(self) -> list[tuple[str, str]]:
        """(what the picker says, id) of every run, the latest first; training that waits comes before all."""
        jobs = [job for job in self.queue.jobs(limit=_JOBS) if job.trains and job.run]
        waiting = [str(job.run) for job in jobs if not job.ended]
        early = [str(job.run) for job in jobs if job.ended and self.has(str(job.run))]  # ended before their first word
        names = dict.fromkeys([*waiting, *latest(self.workspace.runs), *early])
        return [(shown(name, 200), name) for name in names if as_id(name)]

    def has(self, run: str) -> bool:
        """Whether there is a run directory of that id."""
        try:
            self.workspace.run(run)
        except UnknownId:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Shared:
    """Components that more than one page reads or changes."""

    tabs: gr.Tabs
    run: gr.Dropdown
    """The run that Monitor, Results and Try it are about; its value is the run's id."""
    timer: gr.Timer


def run_picker(desk: Desk, chosen: str | None = None) -> Any:
    """The picker with the runs of this moment."""
    choices = desk.run_choices()
    ids = [name for _, name in choices]
    return gr.update(choices=choices, value=chosen if chosen in ids else (ids[0] if ids else None))


@contextmanager
def unless_queued(place: Path) -> Iterator[None]:
    """Take an empty run directory away again where its job is refused within."""
    try:
        yield
    except TunerError:
        with suppress(OSError):  # not empty: then it is a run by now
            place.rmdir()
        raise


def free_run(workspace: Workspace, name: str) -> str:
    """The name of a run directory that is not there yet: `<name>-<n>`."""
    return rundir.RunDir.create(workspace.runs, name).path.name
