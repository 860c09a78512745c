"""status.json: what a run is doing, for readers in any process; whether its process still lives is theirs to decide."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from . import atomic
from .best import Best
from .redact import redact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

State = Literal[
    "queued",
    "starting",
    "caching",
    "training",
    "sampling",
    "saving",
    "done",
    "stopped",
    "failed",
    "interrupted",
]
STATES: tuple[str, ...] = get_args(State)
LIVE = frozenset({"starting", "caching", "training", "sampling", "saving"})
"""States that only a living process can be in."""
SILENCE_S = 60.0
"""Without a sign of life for this long, a run on another machine counts as gone."""
_CLOCK_S = 2.0
"""Two readings of one process's start may differ by this much: they are computed from the time of booting."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a run failed."""

    kind: str
    """As in `tuner.errors`, or `bug`."""
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """The content of status.json. Times are Unix seconds."""

    run: str
    """Name of the run directory."""
    state: str = "queued"
    """One of STATES."""
    phase: str = "queued"
    """What it does within the state, in a word or two."""
    step: int = 0
    """Optimizer steps done."""
    total: int | None = None
    """Optimizer steps to do."""
    phase_done: int = 0
    """Items of the phase that are done: pictures encoded, steps trained."""
    phase_total: int | None = None
    eta_s: float | None = None
    """Seconds until the phase ends."""
    it_s: float | None = None
    """Optimizer steps a second."""
    memory: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Megabytes by place: `process` (resident), and `device` where it was measured."""
    host: str = ""
    pid: int | None = None
    pid_create_time: float | None = None
    """With the pid this names one process: pids come round again."""
    heartbeat: float | None = None
    """When the process last showed a sign of life."""
    started: float | None = None
    """When it began, or began again."""
    best: Best | None = None
    """The saved step with the lowest validation loss so far."""
    error: Fault | None = None

    def to_json(self) -> str:
        return redact(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)) + "\n"


def of_this_process(run: str, **fields: Any) -> Status:
    """A status that names this process as the run's owner."""
    import psutil

    now = round(time.time(), 3)
    me = psutil.Process()
    owner = {"host": platform.node(), "pid": me.pid, "pid_create_time": me.create_time()}
    return Status(
        run, **({"state": "starting", "phase": "starting", "heartbeat": now, "started": now} | owner | fields)
    )


def write_status(path: Path, status: Status) -> None:
    """Put status.json in place. Raises: StorageError."""
    atomic.write(path, status.to_json(), durable=status.state not in LIVE)


def read_status(path: Path, now: float | None = None) -> Status | None:
    """The status as it is true now, `interrupted` where the process is gone; None where there is none to read.

    Raises: StorageError where the file is there but may not be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            return None
        raw = path.read_bytes()
        status = _parse(json.loads(raw))
    except (FileNotFoundError, NotADirectoryError, ValueError, ArithmeticError, TypeError, LookupError, RecursionError):
        return None
    except OSError as error:
        raise atomic.storage_error(error, path, "cannot read") from error
    if status.state in LIVE and not is_alive(status, time.time() if now is None else now):
        return dataclasses.replace(status, state="interrupted", eta_s=None)
    return status


def is_alive(status: Status, now: float) -> bool:
    """Whether the process that wrote a status still runs: by pid and its start here, by heartbeat elsewhere."""
    if status.host == platform.node() and status.pid is not None:
        verdict = _process_lives(status.pid, status.pid_create_time)
        if verdict is not None:
            return verdict
    return status.heartbeat is not None and now - status.heartbeat < SILENCE_S


def _process_lives(pid: int, create_time: float | None) -> bool | None:
    """None where the system does not say."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return create_time is None or abs(process.create_time() - create_time) <= _CLOCK_S
    except psutil.NoSuchProcess:
        return False
    except (psutil.AccessDenied, OSError, OverflowError, ValueError):
        return None


_NUMBER = (int, float)
_KINDS: Mapping[str, Any] = {
    "run": str,
    "state": str,
    "phase": str,
    "step": int,
    "phase_done": int,
    "total": (int, type(None)),
    "phase_total": (int, type(None)),
    "pid": (int, type(None)),
    "host": str,
    "memory": dict,
    "best": (dict, type(None)),
    "error": (dict, type(None)),
    **{name: (*_NUMBER, type(None)) for name in ("eta_s", "it_s", "pid_create_time", "heartbeat", "started")},
}


def _parse(tree: Any) -> Status:
    """Read what is known strictly, pass over what a later version adds. Raises: TypeError, ValueError, LookupError."""
    known = {name: tree[name] for name in _KINDS if name in tree}
    for name, value in known.items():
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):
            raise TypeError(name)
    if known["state"] not in STATES:
        raise ValueError("state")
    error, best = known.pop("error", None), known.pop("best", None)
    return Status(
        **known,
        best=Best(int(best["step"]), float(best["validation_loss"])) if best else None,
        error=Fault(str(error["kind"]), str(error["message"]), str(error["hint"])) if error else None,
    )


def process_memory_mb() -> float | None:
    """Resident memory of this process, in megabytes; None where the system does not say."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return round(psutil.Process(os.getpid()).memory_info().rss / 2**20, 1)
    return None
