"""`python -m webui.jobs.worker WORKSPACE DEVICE`: takes the queued jobs of one device, one at a time, oldest first.

It depends on nobody: not on the server that started it, and no job depends on it. A worker that is killed, also by
SIGTERM, leaves its job running; the next worker adopts it, which is to wait for its end before another is begun. After
some minutes without a job it ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import LockedError, StorageError
from tuner.lock import Lock
from webui.workspace import Workspace

from .database import writing
from .hardware import environment
from .job import Job
from .launch import lock_file, worker_log
from .reconcile import reconcile
from .rows import with_state


@dataclass(frozen=True)
class Habits:
    """How a worker goes about it. Times in seconds."""

    idle_s: float = 300.0
    """It ends after so long without a job."""
    poll_s: float = 0.5
    """It looks this often."""
    patience_s: float = 60.0
    """A job that was asked to stop and has nothing to save is ended by force after this."""
    program: tuple[str, ...] = ()
    """What runs instead of `tuner`."""


class Worker:
    """The one process that begins jobs on a device, as long as it holds the device's lock."""

    def __init__(self, workspace: Workspace, device: str, habits: Habits) -> None:
        self.workspace, self.device, self.habits = workspace, device, habits
        self._child: tuple[str, subprocess.Popen[bytes]] | None = None
        """The process that this worker itself began, and its job."""
        self._new = True
        """Whether what the worker before left is still to be looked at."""

    def go(self) -> bool:
        """Work until nothing has come for a while. False where another worker is at it."""
        lock = Lock(lock_file(self.workspace, self.device))
        while True:
            try:
                lock.acquire()
            except LockedError:
                return False
            try:
                self._work()
            finally:
                lock.release()
            if not self._wanted():
                return True

    def _wanted(self) -> bool:
        """Whether a job came while the lock was still held: who added it saw a worker, and started none."""
        if not self.workspace.database.is_file():
            return False
        try:
            return bool(with_state(self.workspace, "queued", device=self.device))
        except (StorageError, LockedError) as error:
            say(str(error))
            return False

    def _work(self) -> None:
        last = time.monotonic()
        self._new = True
        while time.monotonic() - last < self.habits.idle_s:
            try:
                if self._one_round():
                    last = time.monotonic()
            except (StorageError, LockedError) as error:
                say(str(error))
                if not self.workspace.root.is_dir():
                    return
            self._wait()

    def _one_round(self) -> bool:
        """Look after the running job, or begin the next; whether there was one. Raises: StorageError, LockedError."""
        if self._new:
            self._put_back()
            self._new = False
        reconcile(self.workspace, patience_s=self.habits.patience_s)
        self._see_stillborn()
        if with_state(self.workspace, "running", device=self.device):
            return True
        job = self._take()
        if job is None:
            return False
        self._begin(job)
        return True

    def _take(self) -> Job | None:
        """Mark the first queued job as running, if none is; it has no pid until its process claims it."""
        with writing(self.workspace.database) as connection:
            row = connection.execute(
                "UPDATE job SET state='running', started=?1, pid=NULL, pid_create_time=NULL WHERE id=("
                "SELECT id FROM job WHERE state='queued' AND device=?2 ORDER BY place, created, id LIMIT 1) "
                "AND NOT EXISTS (SELECT 1 FROM job WHERE state='running' AND device=?2) RETURNING *",
                (time.time(), self.device),
            ).fetchone()
        return Job.from_row(row) if row is not None else None

    def _begin(self, job: Job) -> None:
        """Start the process that claims the job and becomes it."""
        words = ["-m", "webui.jobs.starter", str(self.workspace.root), job.id, *self.habits.program]
        process = subprocess.Popen(
            [sys.executable, "-P", *words],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self.workspace.root,
            env=environment(self.device, job.kind, os.environ),
        )
        self._child = (job.id, process)

    def _wait(self) -> None:
        if self._child is None or self._child[1].poll() is not None:
            time.sleep(self.habits.poll_s)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):  # its parent has to take note of its end
            self._child[1].wait(self.habits.poll_s)

    def _see_stillborn(self) -> None:
        """A process of ours that ended without having claimed its job: it failed, and would again."""
        if self._child is None or self._child[1].poll() is None:
            return
        name, self._child = self._child[0], None
        with writing(self.workspace.database) as connection:
            connection.execute(
                "UPDATE job SET state='failed', finished=?, reason=?, hint=? "
                "WHERE id=? AND state='running' AND pid IS NULL AND asked IS NULL",
                (
                    time.time(),
                    "its process could not be started",
                    f"the end of {worker_log(self.workspace, self.device)} says why",
                    name,
                ),
            )

    def _put_back(self) -> None:
        """What the worker before took, and was killed before it could begin, is the first in the queue again.

        Should its process come after all, the row decides which one becomes the job.
        """
        with writing(self.workspace.database) as connection:
            connection.execute(
                "UPDATE job SET state='queued', started=NULL "
                "WHERE state='running' AND pid IS NULL AND asked IS NULL AND device=?",
                (self.device,),
            )


def say(text: str) -> None:
    """A line of the worker's log."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Work for one device."""
    usual = Habits()
    parser = argparse.ArgumentParser(prog="python -m webui.jobs.worker", description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("device")
    parser.add_argument("--idle", type=float, default=usual.idle_s, metavar="SECONDS")
    parser.add_argument("--poll", type=float, default=usual.poll_s, metavar="SECONDS")
    parser.add_argument("--patience", type=float, default=usual.patience_s, metavar="SECONDS")
    parser.add_argument("--program", action="append", default=[], metavar="WORD", help="what runs instead of tuner")
    given = parser.parse_args(arguments)
    habits = Habits(given.idle, given.poll, given.patience, tuple(given.program))
    Worker(Workspace.open(given.workspace), given.device, habits).go()
    return 0


if __name__ == "__main__":
    sys.exit(main())
