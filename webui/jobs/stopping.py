"""How a running job is asked to end, and how it is ended where it does not."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
from typing import TYPE_CHECKING

from tuner import control
from tuner.status import read_status

if TYPE_CHECKING:
    from pathlib import Path

    from tuner.status import Status
    from webui.workspace import Workspace

    from .job import Job

_IN_STEPS = frozenset({"training", "sampling", "saving"})
"""States of a run that reads its control folder after the step at hand. Before, it throws away what lies there."""


def ask(workspace: Workspace, job: Job, *, now: bool) -> None:
    """Ask a job's process to end; the caller knows that it lives.

    A training saves its state first; with `now` it ends at the next step and goes on later from the last state that
    was saved. Before its first step, and for any other job, there is nothing to save: SIGTERM ends it.

    Raises: StorageError.
    """
    if job.trains and job.run is not None:
        path = workspace.runs / job.run
        status = read_status(path / "status.json")
        if status is not None and status.pid == job.pid and status.state in _IN_STEPS:
            control.request(path, _command(now=now))
            return
    _send(job, signal.SIGTERM)


def ask_run(path: Path, status: Status, *, now: bool) -> None:
    """The same for a run that is no job of the queue; the caller knows that it lives. Raises: StorageError."""
    if status.state in _IN_STEPS or status.pid is None or status.host != platform.node():
        control.request(path, _command(now=now))
        return
    with contextlib.suppress(ProcessLookupError):  # it may share its process group with a terminal: only itself
        os.kill(status.pid, signal.SIGTERM)


def _command(*, now: bool) -> control.Command:
    return "stop-now" if now else "stop"


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
