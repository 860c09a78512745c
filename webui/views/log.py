"""The end of a run's log, however long the log or its lines are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner.redact import redact

from .files import mark
from .words import shown

if TYPE_CHECKING:
    from pathlib import Path

MOST_LINES = 200
TAIL_BYTES = 256 << 10
LONGEST = 1000
"""Characters of a line that are shown."""
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d) (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LogLine:
    day: str
    """'2026-11-21'; empty for a line that is not the run's own."""
    time: str
    """'17:04:05'."""
    text: str
    tone: str
    """'warning', 'bad' or ''."""


@dataclass(frozen=True, slots=True)
class Log:
    """The last lines, oldest first."""

    lines: tuple[LogLine, ...]
    cut: bool
    """Whether there is more before them."""
    note: str = ""
    """Why there are none."""

    @property
    def text(self) -> str:
        """As plain text."""
        return "\n".join(f"{line.time} {line.text}".strip() for line in self.lines)


def tail(path: Path) -> Log:
    """The end of a log file."""
    found = mark(path)
    if not found:
        return Log((), cut=False, note="There is no log yet.")
    start = max(found.size - TAIL_BYTES, 0)
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(TAIL_BYTES)
    except OSError as error:
        return Log((), cut=False, note=f"The log cannot be read: {(os.strerror(error.errno or 0)).lower()}.")
    lines = data.split(b"\n")
    if lines and not lines[-1].strip():
        lines.pop()
    if start and len(lines) > 1:  # the first begins somewhere within a line
        lines = lines[1:]
    kept = lines[-MOST_LINES:]
    return Log(tuple(_line(line) for line in kept), cut=bool(start) or len(kept) < len(lines))


def _line(raw: bytes) -> LogLine:
    # A token is whole in the file or not there at all, so it is looked for before the line is cut.
    text = shown(redact(raw[: 4 * LONGEST + 100].decode("utf-8", "replace").rstrip("\r")), LONGEST)
    if len(raw) > 4 * LONGEST + 100 and not text.endswith("…"):
        text += "…"
    found = _STAMP.fullmatch(text)
    day, clock, said = found.groups() if found else ("", "", text)
    tone = "warning" if said.startswith("warning:") else "bad" if said.startswith("failed:") else ""
    return LogLine(day, clock, said, tone)
