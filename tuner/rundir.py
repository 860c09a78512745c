"""The run directory: the one contract between the command line, the web UI, Python and people's own tools."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from . import atomic
from .control import Control
from .errors import StorageError, UsageError
from .lines import LineWriter, read_json_lines
from .lock import Lock
from .recorder import Recorder
from .redact import redact
from .status import Status, read_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = ["Recorder", "RunDir", "RunSummary", "differences", "flatten", "runs"]

_STRAYS = re.compile(r"control|\.DS_Store|Thumbs\.db|desktop\.ini")
"""What a directory may hold that is still to become a run: early commands, and what file managers add."""
_TAIL_BYTES = 1 << 16


class RunDir:
    """One run's directory. Reading needs nothing; writing is for the process that holds `lock()`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.resolved_file = path / "resolved.yaml"
        self.identity_file = path / "identity.json"
        self.status_file = path / "status.json"
        self.metrics_file = path / "metrics.jsonl"
        self.validation_file = path / "validation.json"
        self.log_file = path / "log.txt"
        self.journal_file = path / "journal.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.control = Control(path, LineWriter(self.journal_file))

    @classmethod
    def create(cls, root: Path, recipe_name: str) -> Self:
        """A new directory `<root>/<recipe>-<n>` with the next free number, also where several start at once.

        Raises: StorageError.
        """
        name = re.sub(r"[^\w.+-]+", "-", recipe_name).strip("-.") or "run"
        with atomic.storage(root, "cannot create a run in"):
            root.mkdir(parents=True, exist_ok=True)
            taken = re.compile(re.escape(name) + r"-(\d{1,9})")
            numbers = [int(match[1]) for entry in root.iterdir() if (match := taken.fullmatch(entry.name))]
            number = max(numbers, default=0) + 1
            while True:
                try:
                    (root / f"{name}-{number}").mkdir()
                except FileExistsError:
                    number += 1
                else:
                    return cls(root / f"{name}-{number}")

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run at `path`, or a new one there when nothing is.

        Raises: UsageError where something else is there; StorageError.
        """
        run = cls(path)
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, not a run directory", "choose another --run-dir")
        with atomic.storage(path, "cannot use"):
            path.mkdir(parents=True, exist_ok=True)
            if not run.is_run and not (path / ".lock").is_file():  # the lock is the first thing that a run writes
                names = sorted(entry.name for entry in path.iterdir())
                foreign = [name for name in names if not _STRAYS.fullmatch(name)]
                if foreign:
                    raise UsageError(
                        f"{path} is not a run directory: it holds {foreign[0]}"
                        + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""),
                        "choose another --run-dir: a new one, an empty one, or an earlier run",
                    )
        return run

    @property
    def is_run(self) -> bool:
        """Whether a run was ever started here."""
        return self.resolved_file.is_file() or self.status_file.is_file()

    @property
    def finished(self) -> bool:
        status = self.status()
        return status is not None and status.state == "done"

    def lock(self) -> AbstractContextManager[Lock]:
        """Own this run: nobody else may write here until the block ends or the process dies.

        On entry it removes what a killed predecessor left half-written, and the commands that were meant for it.
        Raises: LockedError naming pid and host; StorageError.
        """
        return _Ownership(self)

    def tidy(self) -> None:
        """Remove half-written files and folders. Only under the lock. Raises: StorageError."""
        places = [self.path, self.path / "control"]
        for parent in (self.checkpoints, self.samples):
            if parent.is_dir():
                atomic.sweep(parent)
                places += sorted(entry for entry in parent.iterdir() if entry.is_dir())
        for place in places:
            atomic.sweep(place)

    def write_recipe(self, given: str, resolved: str) -> None:
        """Keep the recipe as given and with every default written out. Raises: StorageError."""
        atomic.write(self.resolved_file, redact(resolved))
        atomic.write(self.recipe_file, redact(given))

    def write_identity(self, identity: Mapping[str, Any]) -> None:
        """Keep what the run was started with: nested JSON values. Raises: StorageError."""
        atomic.write(self.identity_file, redact(json.dumps(identity, indent=1, sort_keys=True, allow_nan=False)) + "\n")

    def identity(self) -> dict[str, Any] | None:
        """What the run was started with, or None where that was never written.

        Raises: StorageError where it cannot be read: going on without the comparison would be a guess.
        """
        try:
            tree = json.loads(self.identity_file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise atomic.storage_error(error, self.identity_file, "cannot read") from error
        except ValueError:
            tree = None
        if not isinstance(tree, dict):
            raise StorageError(
                f"cannot read {self.identity_file}: it was damaged",
                "put the file back, or start anew with --new",
            )
        return tree

    def status(self) -> Status | None:
        """What the run does, as it is true now; None where there is no status to read."""
        return read_status(self.status_file)

    def journal(self, event: str, **facts: Any) -> None:
        """Append an event (started, resumed, saved ...) to journal.jsonl. Raises: StorageError."""
        self.control.journal.append_json([{"time": round(time.time(), 3), "event": event, **facts}])


class _Ownership:
    """The lock of a run, with the tidying that only its holder may do."""

    def __init__(self, run: RunDir) -> None:
        self.run, self.guard = run, Lock(run.path / ".lock")

    def __enter__(self) -> Lock:
        self.guard.acquire()
        try:
            self.run.tidy()
            self.run.control.discard()
        except BaseException:
            self.guard.release()
            raise
        return self.guard

    def __exit__(self, *_: object) -> None:
        self.guard.release()


# Comparing what a run was started with


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one dict by dotted key; empty ones stay values."""
    if isinstance(tree, Mapping) and tree:
        pairs: Any = tree.items()
    elif isinstance(tree, Sequence) and not isinstance(tree, str | bytes) and tree:
        pairs = enumerate(tree)
    else:
        return {prefix: tree}
    return {
        key: value
        for name, branch in pairs
        for key, value in flatten(branch, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """How two flattened dicts differ, one line a key in order: `train.lr: 0.0001 -> 0.0002`. Equal ones give none."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = (_spelled(side, key) for side in (old, new))
        if before != after:
            lines.append(f"{key}: {before} -> {after}")
    return lines


def _spelled(side: Mapping[str, Any], key: str) -> str:
    return json.dumps(side[key], ensure_ascii=False, sort_keys=True) if key in side else "(absent)"


# All runs of a folder


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of `tuner runs`."""

    name: str
    state: str
    step: int
    total: int | None
    loss: float | None
    """The last one recorded."""
    age_s: float | None
    """Seconds since it was started, or started again."""
    path: Path


def runs(root: Path) -> list[RunSummary]:
    """The runs below `root`, the latest start first. Folders without a readable run are left out.

    Raises: StorageError where `root` itself cannot be read.
    """
    if not root.is_dir():
        return []
    with atomic.storage(root, "cannot read"):
        found = [summary for entry in sorted(root.iterdir()) for summary in _summaries(entry)]
    return sorted(found, key=lambda run: (run.age_s is None, run.age_s or 0.0, run.name))


def _summaries(path: Path) -> Iterator[RunSummary]:
    run = RunDir(path)
    try:
        if not path.is_dir() or not run.is_run:
            return
        # Killed before its first status, or with a damaged one: there is no process that could say otherwise.
        status = run.status() or Status(path.name, state="interrupted")
        losses = [
            row.get("value") for row in read_json_lines(run.metrics_file, _TAIL_BYTES) if row.get("name") == "loss"
        ]
    except (OSError, StorageError):
        return
    loss = losses[-1] if losses and isinstance(losses[-1], int | float) else None
    age = None if status.started is None else max(0.0, time.time() - status.started)
    yield RunSummary(path.name, status.state, status.step, status.total, loss, age, path)
