"""A job: one `tuner` command, where it stands, and how it ended."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

State = Literal["queued", "running", "done", "failed", "stopped", "interrupted", "cancelled"]
STATES: tuple[str, ...] = get_args(State)
UNFINISHED = frozenset({"queued", "running"})
ENDED = frozenset(STATES) - UNFINISHED

RESULT, LOG = "result.json", "log.txt"
"""In a job's folder: what the command answered, and what it said on the way."""
_TRAINING = frozenset({"run", "quickstart"})
"""Commands whose truth is a run directory."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the queue. Times are Unix seconds."""

    id: str
    kind: str
    """What it is for, in a word: train, quickstart, generate, publish ..."""
    title: str
    """What people call it; text that may hold anything."""
    words: tuple[str, ...]
    """The arguments of `tuner`."""
    device: str
    """cpu, mps, cuda:0 ..., or none for what computes nothing."""
    state: str
    """One of STATES."""
    place: float
    """Of two queued jobs the one with the smaller place comes first."""
    created: float
    started: float | None = None
    finished: float | None = None
    pid: int | None = None
    """Of the process that runs it, which is also the number of its process group."""
    pid_create_time: float | None = None
    """With the pid this names one process: pids come round again."""
    asked: float | None = None
    """When somebody asked it to stop."""
    reason: str = ""
    """Why it ended as it did."""
    hint: str = ""
    """What to do about it."""
    run: str | None = None
    """Name of the run directory that it is about."""

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Self:
        return cls(**{**dict(row), "words": tuple(json.loads(row["words"]))})

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def trains(self) -> bool:
        """Whether a run directory tells how it goes, and it can go on there."""
        return bool(self.words) and self.words[0] in _TRAINING

    @property
    def resumable(self) -> bool:
        """Whether the same command goes on where this one ended."""
        return self.trains and self.state in ("interrupted", "stopped", "failed")

    @property
    def seconds(self) -> float | None:
        """How long it took; None where it never began or has not ended."""
        return None if self.started is None or self.finished is None else max(0.0, self.finished - self.started)


def run_dir(words: Sequence[str]) -> Path | None:
    """The directory after `--run-dir`."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--":
            return None
        if word == "--run-dir":
            return Path(following)
        if word.startswith("--run-dir="):
            return Path(word.removeprefix("--run-dir="))
    return None


def moved(words: Sequence[str], old: Path, new: Path) -> list[str]:
    """The words of a job that is done again in another folder of its own: it goes on where it first began anew."""
    end = words.index("--") if "--" in words else len(words)
    options = [_moved(word, old, new) for word in words[:end] if word != "--new"]
    return [*options, *(_moved(word, old, new) for word in words[end:])]


def _moved(word: str, old: Path, new: Path) -> str:
    """A path at or below `old`, alone or behind `--name=`, below `new`; any other word as it is."""
    name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if value == str(old) or value.startswith(f"{old}{os.sep}"):
        return f"{name}{equals}{new}{value.removeprefix(str(old))}"
    return word
