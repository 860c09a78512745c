"""How a running job is asked to end, and how it is ended where it does not."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from tuner import control
from tuner.status import read_status

if TYPE_CHECKING:
    from webui.workspace import Workspace

    from .job import Job

_IN_STEPS = frozenset({"training", "saving"})
"""States of a run in which it reads its control folder after the step at hand."""


def ask(workspace: Workspace, job: Job, *, now: bool) -> None:
    """Ask a job's process to end; the caller knows that it lives.

    A training saves its state first; with `now` it ends at the next step and goes on later from the last state that
    was saved. Before its first step, and for any other job, there is nothing to save: SIGTERM ends it.

    Raises: StorageError.
    """
    if job.trains and job.run is not None:
        path = workspace.runs / job.run
        status = read_status(path / "status.json")
        # The words of an earlier process of this run do not count: a command now would be thrown away as outdated.
        if status is not None and status.pid == job.pid and status.state in _IN_STEPS:
            control.request(path, "stop-now" if now else "stop")
            return
    _send(job, signal.SIGTERM)


def end_by_force(job: Job) -> None:
    """Kill a job's process and its children at once; the caller knows that it lives."""
    _send(job, getattr(signal, "SIGKILL", signal.SIGTERM))


def _send(job: Job, number: int) -> None:
    """Signal the process group that the job's process leads."""
    assert job.pid is not None
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(job.pid, number)
        else:
            os.kill(job.pid, number)
