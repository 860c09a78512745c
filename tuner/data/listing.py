"""What every place of pictures hands to the scan: candidates in order, and what was left out and why."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..errors import DataError
from .images import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

CaptionFrom = Literal["txt", "metadata", "recipe", "column", "mix", "none"]
"""A .txt beside the picture, a row of metadata.jsonl / .csv, the recipe, a dataset's column, several of these by
weight, or nowhere."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file (or a row, or a line) that is not used."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Given:
    """What one entry of a source's `captions` gives a picture."""

    place: str
    """For messages."""
    weight: float
    sidecar: Path | None = None
    """The caption file."""
    captions: tuple[str, ...] = ()
    """Captions from a table, as written; they share the weight."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A candidate: where its bytes are, and what is known of its caption."""

    name: str
    """For messages."""
    read: Callable[[], bytes]
    """Its bytes. Raises DataError."""
    sidecar: Path | None = None
    """The .txt that holds its caption."""
    captions: tuple[str, ...] = ()
    """Captions from a table, as written; alternatives of each other."""
    caption_from: CaptionFrom = "none"
    """Where `captions` are from."""
    mix: tuple[Given, ...] = ()
    """Instead of sidecar and captions: captions to draw from by weight."""


@dataclass(slots=True)
class Listing:
    """The candidates of one source, in their natural order."""

    pictures: list[Picture] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads one regular file."""

    path: Path
    name: str

    def __call__(self) -> bytes:
        """Raises: DataError naming the file."""
        try:
            facts = self.path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise DataError(f"{self.name}: not a regular file")
            if facts.st_size > MAX_BYTES:
                raise DataError(f"{self.name}: {facts.st_size >> 20} MiB, more than the limit of {MAX_BYTES >> 20} MiB")
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read ({error.strerror or error})") from error


def shown(name: str) -> str:
    """A file's name that is safe to print: what is not printable, or no valid text, is written as an escape."""
    escaped = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in escaped)


def some(names: Iterable[str], limit: int = 20) -> str:
    """'a, b, c', and how many more where there are more than `limit`."""
    known = list(names)
    rest = f" and {len(known) - limit} more" if len(known) > limit else ""
    return ", ".join(known[:limit]) + rest


def count(number: int, noun: str) -> str:
    """'1 picture', '2 pictures'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
