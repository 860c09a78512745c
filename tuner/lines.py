"""Append-only files of lines (metrics.jsonl, journal.jsonl, log.txt) that survive a kill in the middle of a line."""

from __future__ import annotations

import json
import math
import os
import time
from typing import TYPE_CHECKING, Any

from .atomic import storage
from .redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class LineWriter:
    """Appends whole lines to one file. Tokens are redacted; each call is one write, visible to readers at once.

    A partial line that an earlier process left behind is ended first, so that it spoils no line of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken = True  # the last line may lack its end: it is looked at before the first write

    def append(self, lines: Sequence[str]) -> None:
        """Append each text as one line (line breaks inside become spaces). Raises: StorageError."""
        if not lines:
            return
        text = "".join(redact(" ".join(line.splitlines())) + "\n" for line in lines)
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file:
                start = b"\n" if self._broken and _lacks_end(file) else b""
                self._broken = True  # until this write is known to be whole
                data = memoryview(start + text.encode("utf-8", "backslashreplace"))
                while data:
                    data = data[file.write(data) :]
                self._broken = False

    def append_json(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append each mapping as one JSON object; numbers that are not finite become null. Raises: StorageError."""
        self.append([json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) for row in rows])


def _lacks_end(file: Any) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json_lines(path: Path, tail_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """Each object of a JSON-lines file in order; lines that are partial or no object are passed over.

    Args:
        path: the file; one that is not there has no lines.
        tail_bytes: read only about this much of its end.
    """
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file, storage(path, "cannot read"):
        if tail_bytes is not None and file.seek(0, os.SEEK_END) > tail_bytes:
            file.seek(-tail_bytes, os.SEEK_END)
            file.readline()  # the rest of a line whose start is not read
        else:
            file.seek(0)
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def read_metrics(path: Path) -> dict[int, dict[str, float | None]]:
    """Every metric by step and name, steps ascending; None stands for a number that was not finite.

    After a resume from an earlier step the file holds some steps twice: the last value counts.
    """
    table: dict[int, dict[str, float | None]] = {}
    for row in read_json_lines(path):
        step, name, value = row.get("step"), row.get("name"), row.get("value")
        if isinstance(step, int) and isinstance(name, str) and (value is None or isinstance(value, int | float)):
            table.setdefault(step, {})[name] = value
    return dict(sorted(table.items()))


def metric_rows(step: int, values: Mapping[str, float]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl for one log boundary: step, name, value, and Unix time in seconds."""
    now = round(time.time(), 3)
    return [{"step": step, "name": name, "value": float(value), "time": now} for name, value in values.items()]
