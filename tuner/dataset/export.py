"""A dataset as one zip that any tool reads: the pictures under the names they came with, and metadata.jsonl."""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import atomic
from .store import TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .record import Picture
    from .store import Dataset

_WHEN = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip knows: what was exported says nothing of when."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Exported:
    path: Path
    pictures: int
    bytes: int


def export(dataset: Dataset, out: Path) -> Exported:
    """Write `out`, whole or not at all; what was there is replaced.

    Raises: as `Dataset.open`; StorageError where it cannot be written.
    """
    found = dataset.look()
    pictures, captions = found.contents.pictures, found.captions()
    named = dict(zip((picture.id for picture in pictures), file_names(pictures), strict=True))
    rows = [{"file_name": named[picture.id], "text": captions[picture.id]} for picture in pictures]
    table = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    scratch = atomic.temporary(out.absolute())
    with atomic.storage(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(scratch, "x") as archive:
                archive.writestr(zipfile.ZipInfo(TABLE, _WHEN), table.encode())
                for picture in pictures:
                    archive.writestr(zipfile.ZipInfo(named[picture.id], _WHEN), _bytes(dataset, picture))
            atomic.sync_file(scratch)
            os.replace(scratch, out)
        finally:
            scratch.unlink(missing_ok=True)
        return Exported(out, len(pictures), out.stat().st_size)


def _bytes(dataset: Dataset, picture: Picture) -> bytes:
    """Of a picture that was there when the export began; it may have been taken out since. Raises: OSError."""
    try:
        return (dataset.images / picture.file_name).read_bytes()
    except FileNotFoundError:
        return (dataset.removed / picture.file_name).read_bytes()


def file_names(pictures: Sequence[Picture]) -> list[str]:
    """A name for each picture that every system can write, no two alike whatever the case."""
    taken, found = {TABLE}, []
    for picture in pictures:
        stem = picture.name.rpartition(".")[0] or picture.name
        stem = "".join(char if char.isalnum() or char in " -_()" else "_" for char in stem).strip(" _")[:80]
        stem = f"picture {stem}".strip() if not stem or _RESERVED.fullmatch(stem) else stem
        name, number = stem + picture.ending, 2
        while name.casefold() in taken:
            name, number = f"{stem} ({number}){picture.ending}", number + 1
        taken.add(name.casefold())
        found.append(name)
    return found
