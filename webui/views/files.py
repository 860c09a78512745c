"""Reading a run directory's files without trusting them: regular ones alone, so much of them, a word for each fault."""

from __future__ import annotations

import json
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_TEXT = 1 << 20
"""Bytes of the largest text file that is read whole."""
SETTLED_NS = 3 * 10**9


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells one state of a file from another without reading it."""

    inode: int = 0
    size: int = -1
    """Bytes; -1 where there is no regular file."""
    changed_ns: int = 0

    def __bool__(self) -> bool:
        return self.size >= 0

    @property
    def settled(self) -> bool:
        """Whether it last changed long enough ago that a further change would have another time.

        File systems count time in ticks of milliseconds (FAT: of two seconds), so two changes may share one.
        """
        return time.time_ns() - self.changed_ns > SETTLED_NS


NOTHING = Mark()
"""Of a file that is not there, or is none."""


def mark(path: Path) -> Mark:
    """The mark of a regular file; `NOTHING` for whatever else is there: reading a pipe would wait for ever."""
    try:
        facts = path.lstat()
    except (OSError, ValueError):
        return NOTHING
    return Mark(facts.st_ino, facts.st_size, facts.st_mtime_ns) if stat.S_ISREG(facts.st_mode) else NOTHING


def folder_mark(path: Path) -> Mark:
    """The mark of a folder, or of a link to one, as where checkpoints lie on another disk; its size counts nothing."""
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return NOTHING
    return Mark(facts.st_ino, 0, facts.st_mtime_ns) if stat.S_ISDIR(facts.st_mode) else NOTHING


def names(folder: Path) -> list[str]:
    """The names in a folder in order; none where it is no folder or may not be read."""
    if not folder_mark(folder):
        return []
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def step_names(folder: Path) -> list[int]:
    """The numbers that name entries of a folder, as `samples/` and `checkpoints/` have them; ascending."""
    return sorted(int(name) for name in names(folder) if _is_step(name))


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) <= 15 and (name == "0" or not name.startswith("0"))


def text(path: Path, most: int = LARGEST_TEXT) -> str | None:
    """The text of a file of at most `most` bytes, bytes that are no UTF-8 as U+FFFD; None where there is none."""
    found = mark(path)
    if not found or found.size > most:
        return None
    try:
        with path.open("rb") as file:
            return file.read(most + 1).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def tree(path: Path, most: int = LARGEST_TEXT) -> Any:
    """What a JSON file holds; None where there is none, or it cannot be read as JSON."""
    content = text(path, most)
    try:
        return None if content is None else json.loads(content)
    except (ValueError, RecursionError):
        return None
