"""What became of jobs that are down as running: decided by their process and by what it left, never by hand."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner import atomic
from tuner.redact import redact
from tuner.status import Status, is_alive, read_status

from . import sign, stopping
from .database import writing
from .job import LOG, RESULT, Job
from .rows import with_state

if TYPE_CHECKING:
    from pathlib import Path

    from webui.workspace import Workspace

PATIENCE_S = 60.0
"""So long after it was asked to stop, a job that has nothing to save is ended by force."""
UNCLAIMED_S = 120.0
"""So long after a worker took a job, its process has begun, or never will."""
_LAST_BYTES = 1 << 13
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a job ended."""

    state: str
    reason: str = ""
    hint: str = ""


def reconcile(workspace: Workspace, *, patience_s: float = PATIENCE_S) -> list[Job]:
    """Bring every running job up to date; gives those that have ended.

    A living process stays as it is, whoever started it. A dead one is judged. Any number of processes may do this at
    once: they judge alike, and the first one writes it down. Raises: StorageError, LockedError.
    """
    ended = []
    for job in with_state(workspace, "running"):
        now = time.time()
        if job.pid is None:
            _unclaimed(workspace, job, now)
        elif lives(workspace, job):
            if job.asked is not None and now - job.asked > patience_s and not job.trains:
                stopping.end_by_force(job)
        elif (row := _judge(workspace, job.id)) is not None:
            ended.append(row)
    return ended


def lives(workspace: Workspace, job: Job) -> bool:
    """Whether the process that a job was given still runs: by its pid, and by its create time or its lock."""
    if job.pid is None:
        return False
    told = Status(job.id, host=platform.node(), pid=job.pid, pid_create_time=job.pid_create_time)
    return is_alive(told, time.time()) or (_exists(job.pid) and sign.given(workspace.jobs / job.id))


def _exists(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)


def verdict(workspace: Workspace, job: Job) -> Verdict:
    """How a job whose process is gone ended. The same files always give the same verdict, whoever watched.

    Raises: StorageError.
    """
    folder = workspace.jobs / job.id
    found = answer(folder / RESULT)
    error = found.get("error") if found is not None else None
    if isinstance(error, dict) and "kind" in error:
        state = "stopped" if error["kind"] == "stopped" else "failed"
        return Verdict(state, _short(error.get("message")), _short(error.get("hint")))
    if found is not None:
        return Verdict("done")
    told = _run_status(workspace, job)
    if told is not None and told.state == "done" and job.words[0] == "run":
        return Verdict("done")
    if told is not None and told.state in ("stopped", "failed"):
        fault = told.error
        return Verdict(told.state, _short(fault.message) if fault else "", _short(fault.hint) if fault else "")
    if job.asked is not None:
        again = "Resume goes on from the last saved step" if job.trains else "start it again"
        return Verdict("stopped", "ended before it could answer", again)
    last = last_lines(folder / LOG, 1)
    where = f"; its log ends with: {last}" if last else ""
    again = "Resume goes on from the last saved step" if job.trains else "start it again"
    return Verdict(
        "interrupted",
        _short(f"its process is gone: it was killed, memory ran out, or the machine restarted{where}"),
        again,
    )


def answer(path: Path) -> dict[str, Any] | None:
    """The one JSON object that a command printed; None where it is missing or cut off. Raises: StorageError."""
    try:
        tree = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise atomic.storage_error(error, path, "cannot read") from error
    return tree if isinstance(tree, dict) else {"answer": tree}


def last_lines(path: Path, count: int) -> str:
    """The end of a log as text, without tokens; empty where there is none. Raises: StorageError."""
    if not path.is_file():
        return ""
    with atomic.storage(path, "cannot read"), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - max(_LAST_BYTES, 200 * count)))
        text = file.read().decode("utf-8", "replace")
    lines = [line.rstrip() for line in redact(text).splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def _run_status(workspace: Workspace, job: Job) -> Status | None:
    """What the run directory says, if it says it of this job's process and not of an earlier one."""
    if not job.trains or job.run is None:
        return None
    status = read_status(workspace.runs / job.run / "status.json")
    return status if status is not None and status.pid == job.pid and (status.started or 0) >= job.created else None


def _unclaimed(workspace: Workspace, job: Job, now: float) -> None:
    """A job that was taken, but whose process has not reported: cancelled if that was asked, else back in the queue."""
    if job.asked is not None:
        row = ("cancelled", now, job.id)
        change = "UPDATE job SET state=?, finished=? WHERE id=? AND state='running' AND pid IS NULL"
    elif job.started is None or now - job.started > UNCLAIMED_S:
        row = ("queued", None, job.id)
        change = "UPDATE job SET state=?, started=? WHERE id=? AND state='running' AND pid IS NULL"
    else:
        return
    with writing(workspace.database) as connection:
        connection.execute(change, row)


def _judge(workspace: Workspace, name: str) -> Job | None:
    """Put the verdict on a job whose process is gone into its row, unless somebody else was faster."""
    # Its row is read once more now: a process that was asked to end was asked before it died.
    job = next((one for one in with_state(workspace, "running") if one.id == name and one.pid is not None), None)
    if job is None:
        return None
    found, folder = verdict(workspace, job), workspace.jobs / name
    for file in (RESULT, LOG):
        _scrub(folder / file)
    with writing(workspace.database) as connection:
        row = connection.execute(
            "UPDATE job SET state=?, reason=?, hint=?, finished=? WHERE id=? AND state='running' AND pid=? RETURNING *",
            (found.state, found.reason, found.hint, _end(folder, job), name, job.pid),
        ).fetchone()
    return Job.from_row(row) if row is not None else None


def _end(folder: Path, job: Job) -> float:
    """When the process showed its last sign of life, as near as its files say: nobody may have been looking."""
    now = time.time()
    times = [path.stat().st_mtime for name in (RESULT, LOG) if (path := folder / name).is_file()]
    return min(now, max([job.started or now, *times]))


def _scrub(path: Path) -> None:
    """Take tokens out of what a library below printed. Raises: StorageError."""
    if not path.is_file():
        return
    with atomic.storage(path):
        data = path.read_bytes()
        if b"hf_" not in data:
            return
        text = data.decode("utf-8", "surrogateescape")
        if (clean := redact(text)) != text:
            stamp = path.stat()
            atomic.write(path, clean.encode("utf-8", "surrogateescape"))
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def _short(text: Any) -> str:
    return redact(str(text or ""))[:_LONGEST]
