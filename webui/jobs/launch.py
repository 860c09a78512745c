"""Seeing to it that a worker stands where jobs wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from functools import cache
from typing import TYPE_CHECKING

from tuner import atomic
from tuner.status import Status, is_alive

from .hardware import with_program
from .rows import with_state

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from webui.workspace import Workspace

RESPITE_S = 30.0
"""A worker that failed at once is not started again before this."""


def lock_file(workspace: Workspace, device: str) -> Path:
    """Held by the worker of a device."""
    return workspace.jobs / f"worker-{device.replace(':', '-')}.lock"


def worker_log(workspace: Workspace, device: str) -> Path:
    """What a worker says, and why one did not start."""
    return workspace.jobs / f"worker-{device.replace(':', '-')}.log"


def holder(workspace: Workspace, device: str) -> int | None:
    """Pid of the device's worker. Only looks: taking the lock to see would turn away a worker that is just starting."""
    try:
        owner = json.loads(lock_file(workspace, device).read_bytes())
        status = Status("worker", host=owner["host"], pid=int(owner["pid"]), heartbeat=None)
        started = float(owner["started"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return status.pid if is_alive(status, time.time()) and _older(status.pid, started) else None


def _older(pid: int | None, moment: float) -> bool:
    """Whether the process of that number was there at that moment, so that it is the one that wrote the number down."""
    import psutil

    try:
        return pid is not None and psutil.Process(pid).create_time() <= moment + 2.0
    except psutil.Error:
        return False


class Workers:
    """The workers that this process has started, which outlive it."""

    def __init__(self, workspace: Workspace, options: Sequence[str] = ()) -> None:
        self.workspace, self.options = workspace, tuple(options)
        self._started: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._guard = threading.Lock()

    def ensure(self, device: str) -> bool:
        """Start the device's worker if none is at work; True where one was started. Raises: StorageError."""
        with self._guard:
            if holder(self.workspace, device) is not None or self._coming(device):
                return False
            log = worker_log(self.workspace, device)
            words = ["-m", "webui.jobs.worker", str(self.workspace.root), device, *self.options]
            with atomic.storage(log), log.open("ab") as said:
                process = subprocess.Popen(
                    [sys.executable, "-P", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                    cwd=self.workspace.root,
                    env=with_program(os.environ),
                )
            self._started[device] = (process, time.monotonic())
            return True

    def wake(self) -> list[str]:
        """Start a worker for each device with jobs to begin or to watch, where none is; gives those devices.

        Raises: StorageError, LockedError.
        """
        used = {job.device for job in with_state(self.workspace, "queued", "running")}
        return [device for device in sorted(used) if self.ensure(device)]

    def _coming(self, device: str) -> bool:
        """Whether a worker of ours is on its way to the lock, or has just failed to get going."""
        process, began = self._started.get(device, (None, 0.0))
        if process is None:
            return False
        code = process.poll()
        return code is None or (code > 0 and time.monotonic() - began < RESPITE_S)


def ensure_worker(workspace: Workspace, device: str) -> bool:
    """Start the device's worker if none is at work; True where one was started. Raises: StorageError."""
    return workers_of(workspace).ensure(device)


@cache
def workers_of(workspace: Workspace) -> Workers:
    """The usual workers of a workspace: one value a process, the parent that notes their end."""
    return Workers(workspace)
