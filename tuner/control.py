"""Commands to a running run: files put into its `control/` folder and taken at step boundaries."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING, Literal, get_args

from . import atomic
from .errors import UsageError
from .lines import LineWriter

if TYPE_CHECKING:
    from pathlib import Path

Command = Literal["stop", "stop-now", "save", "sample"]
COMMANDS: tuple[str, ...] = get_args(Command)
_LARGEST = 4096
"""No command is longer, in bytes; what is longer is not read."""


def request(run_dir: Path, command: Command | str) -> Path:
    """Ask the process that owns `run_dir` for something at its next step boundary. Returns the file that asks.

    Raises: UsageError for an unknown command or a directory that is no run; StorageError.
    """
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}", f"there is {', '.join(COMMANDS)}")
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir} is not a run directory", "`tuner runs` lists the runs there are")
    now = time.time_ns()
    path = run_dir / "control" / f"{now:020d}-{os.getpid()}.json"
    atomic.write(path, json.dumps({"command": command, "pid": os.getpid(), "time": now / 1e9}))
    return path


class Control:
    """The receiving end. A file named like a command (`touch control/stop`) counts as that command too."""

    def __init__(self, run_dir: Path, journal: LineWriter | None = None) -> None:
        self.folder = run_dir / "control"
        self.journal = journal or LineWriter(run_dir / "journal.jsonl")
        self._stuck: set[str] = set()

    def take(self) -> list[str]:
        """The commands that arrived since the last call, oldest first, removed and journaled.

        What is no command is removed and journaled too. Raises: StorageError.
        """
        return self._take("command")

    def discard(self) -> list[str]:
        """Forget commands that were meant for an earlier process of this run. Raises: StorageError."""
        return self._take("discarded")

    def _take(self, event: str) -> list[str]:
        commands: list[str] = []
        rows = []
        for name in self._names():
            path = self.folder / name
            command, fault = _read(path)
            if not _remove(path):
                self._stuck.add(name)
                fault = fault or "cannot be removed, so it counts once"
            row = {"time": round(time.time(), 3), "event": event if command else "refused", "file": name}
            rows.append(row | ({"command": command} if command else {}) | ({"reason": fault} if fault else {}))
            if command:
                commands.append(command)
        self.journal.append_json(rows)
        return commands

    def _names(self) -> list[str]:
        """The names in the folder, oldest first; half-written files are left to their writer."""
        found = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name in self._stuck or atomic.TEMPORARY.match(entry.name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        return [name for _, name in sorted(found)]


def _read(path: Path) -> tuple[str | None, str]:
    """(command, '') or (None, why it is none)."""
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait for ever
            return None, "not a regular file"
        content = path.read_bytes() if facts.st_size <= _LARGEST else b""
        command = path.name if path.name in COMMANDS else json.loads(content)["command"]
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, RecursionError):
        command = None
    return (command, "") if command in COMMANDS else (None, f"no command among {', '.join(COMMANDS)}")


def _remove(path: Path) -> bool:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
