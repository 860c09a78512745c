"""The queue as the pages use it: add, look, move, stop, go on, forget."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import atomic
from tuner.errors import UsageError
from tuner.status import LIVE, read_status
from webui.workspace import UnknownId, fresh_id

from . import admission, rows, stopping, twins
from .database import writing
from .hardware import check, devices
from .job import ENDED, LOG, RESULT, UNFINISHED, Job, moved
from .launch import Workers, workers_of
from .reconcile import PATIENCE_S, answer, last_lines, lives, reconcile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from webui.workspace import Workspace

MOST_UNFINISHED = 200
"""Jobs that wait or run at a time."""
_CANCEL = "UPDATE job SET state='cancelled', finished=? WHERE id=? AND state='queued' RETURNING *"


class Queue:
    """Jobs of a workspace. Any number of these, in any number of processes, work on the same one.

    Every look at it brings running jobs up to date first, and sees to it that a worker stands where jobs wait.
    All of its methods raise StorageError where the disk fails, LockedError where the file stays busy.
    """

    def __init__(self, workspace: Workspace, workers: Workers | None = None, *, patience_s: float = PATIENCE_S) -> None:
        """`workers` starts workers; without it this process starts the usual ones."""
        self.workspace, self.patience_s = workspace, patience_s
        self.workers = workers or workers_of(workspace)

    def add(
        self,
        kind: str,
        title: str,
        words: Sequence[str] | Callable[[Path], Sequence[str]],
        *,
        device: str = "auto",
        run: str | None = None,
        ahead: bool = False,
        files: Mapping[str, str] | None = None,
    ) -> Job:
        """Put a command into the queue, and see to it that a worker comes.

        Where the same is waited for already, that job is given instead of a second one: see `twins.ONCE` for which
        kinds, and why. A job with files of its own is never the same as another.

        Args:
            kind: what it is for, in a word.
            title: for people.
            words: the arguments of `tuner`, with `--json`; or what makes them from the job's own folder, which is there
                by then, for words that name a file in it.
            device: one of `devices()`; auto takes the one with the least to do, never the CPU beside a GPU; none is
                for what computes nothing.
            run: name of the run directory that it is about; a training's is read from its `--run-dir`.
            ahead: before all others of its device.
            files: text files to put into the job's folder, by name.

        Raises:
            UsageError: text that no command can be given, a token in it, no such device, a full queue, or a run that is
                in the queue already.
        """
        name = fresh_id()
        folder = self.workspace.jobs / name
        with atomic.storage(folder):
            folder.mkdir(mode=0o700)
        try:
            made = tuple(words(folder) if callable(words) else words)
            admission.check_words(made)
            admission.check_files(files or {})
            run = admission.run_name(self.workspace, made, run)
            title = admission.check_title(title)
            job = Job(name, kind, title, made, self._device(device), "queued", 0.0, time.time(), run=run)
            for file, text in (files or {}).items():
                atomic.write(folder / file, text)
            job = self._insert(job, ahead=ahead, alone=not files)
            if job.id != name:
                shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.workers.ensure(job.device)
        return job

    def jobs(
        self, *, states: Iterable[str] = (), kinds: Iterable[str] = (), run: str | None = None, limit: int = 200
    ) -> list[Job]:
        """The latest jobs first, as things stand now; only those in these states, of these kinds, about this run."""
        self.refresh()
        wanted = {"state": tuple(states), "kind": tuple(kinds), "run": (run,) if run is not None else ()}
        return rows.newest(self.workspace, limit, **wanted)

    def waiting(self, device: str | None = None) -> list[Job]:
        """What is queued, in the order in which it will run."""
        self.refresh()
        return rows.with_state(self.workspace, "queued", device=device)

    def job(self, name: str) -> Job:
        """One job, as things stand now. Raises: UnknownId."""
        self.refresh()
        return self._job(name)

    def refresh(self) -> None:
        """Bring running jobs up to date, and start workers where jobs wait and none is there."""
        reconcile(self.workspace, patience_s=self.patience_s)
        self.workers.wake()

    def cancel(self, name: str) -> Job:
        """Take a job out of the queue. Raises: UnknownId; UsageError where it is not queued any more."""
        return self._change(name, _CANCEL)

    def move(self, name: str, places: int) -> list[Job]:
        """Let a queued job run `places` sooner (below zero) or later; gives its device's queue in the new order.

        Raises: UnknownId; UsageError where it is not queued any more.
        """
        job = self._job(name)
        with writing(self.workspace.database) as connection:
            found = connection.execute(
                "SELECT id, place FROM job WHERE state='queued' AND device=? ORDER BY place, created, id", (job.device,)
            ).fetchall()
            order = [row["id"] for row in found]
            if name not in order:
                raise UsageError(f"{job.title!r} is not waiting any more", "reload the page")
            at = order.index(name)
            order.insert(max(0, min(len(order), at + places)), order.pop(at))
            places_there = [row["place"] for row in found]
            connection.executemany("UPDATE job SET place=? WHERE id=?", zip(places_there, order, strict=True))
        return rows.with_state(self.workspace, "queued", device=job.device)

    def stop(self, name: str, *, now: bool = False) -> Job:
        """Ask a running job to end; a queued one is taken out.

        A training saves its state and stops after the step at hand; with `now` it stops without saving, and goes on
        later from the last saved step. It is never killed for being slow: `kill` is there for that. Any other job gets
        SIGTERM, and is killed where it still runs a minute later.

        Raises: UnknownId; UsageError where it has ended.
        """
        reconcile(self.workspace, patience_s=self.patience_s)
        if (row := self._try(name, _CANCEL)) is not None:
            return row
        job = self._ask(name)
        if lives(self.workspace, job):
            stopping.ask(self.workspace, job, now=now)
        return job

    def stop_run(self, run: str, *, now: bool = False) -> None:
        """Ask a run to end, whether it was begun here or on the command line: see `stop`.

        Raises: UnknownId; UsageError where it neither runs nor waits.
        """
        path = self.workspace.run(run)
        job = next((job for job in self.jobs(run=run, states=UNFINISHED) if job.trains), None)
        if job is not None:
            self.stop(job.id, now=now)
            return
        status = read_status(path / "status.json")
        if status is None or status.state not in LIVE:
            raise UsageError(f"{run} is not running", "reload the page")
        stopping.ask_run(path, status, now=now)

    def kill(self, name: str) -> Job:
        """End a running job by force. A training goes on later from the last saved step.

        Raises: UnknownId; UsageError where it has ended.
        """
        job = self._ask(name)
        if lives(self.workspace, job):
            stopping.end_by_force(job)
        return job

    def resume(self, name: str, *, ahead: bool = False) -> Job:
        """Queue the same training again: it goes on in its run directory, from the last saved step.

        Raises: UnknownId; UsageError where it is no training that was interrupted, stopped or failed.
        """
        old = self.job(name)
        if not old.resumable:
            why = f"it is a {old.kind} job that is {old.state}"
            raise UsageError(f"{old.title!r} cannot go on: {why}", "start a new one")
        return self.again(name, ahead=ahead)

    def again(self, name: str, *, ahead: bool = False) -> Job:
        """Queue the command of a job that has ended once more, with the job's own files, in a folder of its own.

        Raises: UnknownId; UsageError where it has not ended.
        """
        old = self.job(name)
        if not old.ended:
            raise UsageError(f"{old.title!r} is still {old.state}", "wait for it, or stop it first")
        folder = self.workspace.job(name)
        with atomic.storage(folder, "cannot read"):
            own = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in (RESULT, LOG)]
            files = {path.name: path.read_text(encoding="utf-8") for path in own if not path.name.startswith(".")}
        return self.add(
            old.kind,
            old.title,
            lambda new: moved(old.words, folder, new),
            device=old.device,
            run=old.run,
            ahead=ahead,
            files=files,
        )

    def forget(self, name: str) -> None:
        """Remove an ended job and its folder; its run directory stays. Raises: UnknownId; UsageError while it runs."""
        job = self._job(name)
        marks = ", ".join("?" * len(ENDED))
        with writing(self.workspace.database) as connection:
            gone = connection.execute(
                f"DELETE FROM job WHERE id=? AND state IN ({marks}) RETURNING id",
                (name, *sorted(ENDED)),
            ).fetchone()
        if gone is None:
            raise UsageError(f"{job.title!r} is still {job.state}", "stop it first")
        folder = self.workspace.jobs / job.id
        with atomic.storage(folder, "cannot remove"):
            if folder.is_dir():
                shutil.rmtree(folder)

    def folder(self, name: str) -> Path:
        """Where a job keeps its files. Raises: UnknownId."""
        return self.workspace.job(name)

    def answer(self, name: str) -> dict[str, Any] | None:
        """What the command printed: its answer, or `{"error": {kind, message, hint}}`; None while there is none."""
        return answer(self.folder(name) / RESULT)

    def log(self, name: str, lines: int = 200) -> str:
        """The last lines of what the command said, without tokens. Raises: UnknownId."""
        return last_lines(self.folder(name) / LOG, lines)

    def _job(self, name: str) -> Job:
        found = rows.newest(self.workspace, 1, id=(name,))
        if not found:
            raise UnknownId("job")
        return found[0]

    def _ask(self, name: str) -> Job:
        return self._change(name, "UPDATE job SET asked=? WHERE id=? AND state='running' RETURNING *")

    def _change(self, name: str, change: str) -> Job:
        """Apply a change to one row. Raises: UnknownId; UsageError where the row is not in the state that it is for."""
        if (row := self._try(name, change)) is None:
            job = self._job(name)
            raise UsageError(f"{job.title!r} is {job.state}, so there is nothing to stop", "reload the page")
        return row

    def _try(self, name: str, change: str) -> Job | None:
        """Apply a change, with the time of day, to one row that is in the state that it is for; None where none is."""
        with writing(self.workspace.database) as connection:
            row = connection.execute(change, (time.time(), name)).fetchone()
        return Job.from_row(row) if row is not None else None

    def _insert(self, job: Job, *, ahead: bool, alone: bool) -> Job:
        with writing(self.workspace.database) as connection:
            if alone and (twin := twins.of(connection, self.workspace, job)) is not None:
                return twin
            unfinished = connection.execute("SELECT COUNT(*) FROM job WHERE state IN ('queued', 'running')").fetchone()[
                0
            ]
            if unfinished >= MOST_UNFINISHED:
                raise UsageError(f"{unfinished} jobs are waiting already", "let some end, or cancel some")
            if job.trains:
                same = connection.execute(
                    "SELECT title, words FROM job WHERE run=? AND state IN ('queued', 'running')", (job.run,)
                ).fetchall()
                if any(json.loads(row["words"])[0] in ("run", "quickstart") for row in same):
                    raise UsageError(f"{job.run} is in the queue already", "wait for it, or stop it first")
            edge = "MIN(place) - 1" if ahead else "MAX(place) + 1"
            row = connection.execute(
                "INSERT INTO job (id, kind, title, words, device, state, place, created, run) "
                f"SELECT ?, ?, ?, ?, ?, 'queued', COALESCE({edge}, 0.0), ?, ? FROM job RETURNING *",
                (job.id, job.kind, job.title, json.dumps(job.words), job.device, job.created, job.run),
            ).fetchone()
        return Job.from_row(row)

    def _device(self, wanted: str) -> str:
        """Raises: UsageError where there is no such device."""
        if wanted != "auto":
            return check(wanted)
        there = devices()
        fastest = [device for device in there if device != "cpu"] or list(there)
        busy = [job.device for job in rows.with_state(self.workspace, *sorted(UNFINISHED))]
        return min(fastest, key=busy.count)
