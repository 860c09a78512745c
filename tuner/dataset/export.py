"""A dataset as one zip that any tool reads: the pictures under the names they came with, and metadata.jsonl."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from .. import atomic
from .store import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .record import Picture
    from .store import Change, Dataset

_WHEN = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip knows: what was exported says nothing of when."""
_HEAD, _ROW, _END = 30, 46, 22
"""Bytes of a zip before each file, of its row in the directory (each with the name besides), and after them."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Exported:
    path: Path
    pictures: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A zip that is made while it is read."""

    name: str
    """Of the dataset."""
    bytes: int | None
    """How long it will be; None beyond 2 GB, where the format has further parts."""
    pieces: Iterator[bytes]
    """Raises StorageError where a picture cannot be read any more."""


def export(dataset: Dataset, out: Path) -> Exported:
    """Write `out`, whole or not at all; what was there is replaced.

    Raises: as `Dataset.open`; StorageError where it cannot be written.
    """
    found = dataset.look()
    scratch = atomic.temporary(out.absolute())
    with atomic.storage(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(scratch, "x") as archive:
                for name, data in _entries(found):
                    archive.writestr(zipfile.ZipInfo(name, _WHEN), data)
            atomic.sync_file(scratch)
            os.replace(scratch, out)
        finally:
            scratch.unlink(missing_ok=True)
        return Exported(out, len(found.contents.pictures), out.stat().st_size)


def pack(dataset: Dataset) -> Packed:
    """The same zip, byte for byte, without a file: a picture at a time is in memory.

    Raises: as `Dataset.open`; StorageError where a picture is gone.
    """
    found = dataset.look()
    pictures = found.contents.pictures
    with atomic.storage(dataset.images, "cannot read"):
        sizes = {
            name: _place(dataset, one).stat().st_size for name, one in zip(file_names(pictures), pictures, strict=True)
        }
    sizes[TABLE] = len(_table(found))
    names = sum(len(name.encode()) for name in sizes)
    total = sum(sizes.values()) + 2 * names + len(sizes) * (_HEAD + _ROW) + _END
    plain = total < zipfile.ZIP64_LIMIT and len(sizes) < zipfile.ZIP_FILECOUNT_LIMIT
    return Packed(found.contents.name, total if plain else None, _pieces(found))


def _pieces(found: Change) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(cast("BinaryIO", sink), "w") as archive, atomic.storage(found.dataset.images, "cannot read"):
        for name, data in _entries(found):
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data)
            yield sink.taken()
    yield sink.taken()


class _Sink:
    """A file whose beginning is handed over already: the module goes back only to the head of the last entry."""

    def __init__(self) -> None:
        self.before, self.rest = 0, io.BytesIO()

    def write(self, data: bytes) -> int:
        return self.rest.write(data)

    def tell(self) -> int:
        return self.before + self.rest.tell()

    def seek(self, to: int) -> int:
        return self.before + self.rest.seek(to - self.before)

    def flush(self) -> None: ...

    def taken(self) -> bytes:
        data = self.rest.getvalue()
        self.before, self.rest = self.before + len(data), io.BytesIO()
        return data


def _entries(found: Change) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, the captions first. Raises: OSError."""
    yield TABLE, _table(found)
    pictures = found.contents.pictures
    for name, picture in zip(file_names(pictures), pictures, strict=True):
        yield name, _bytes(found.dataset, picture)


def _table(found: Change) -> bytes:
    pictures, captions = found.contents.pictures, found.captions()
    names = file_names(pictures)
    rows = [{"file_name": name, "text": captions[one.id]} for name, one in zip(names, pictures, strict=True)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _place(dataset: Dataset, picture: Picture) -> Path:
    """Where the file of a picture is that was there a moment ago; it may have been taken out since."""
    here = dataset.images / picture.file_name
    return here if here.exists() else dataset.removed / picture.file_name


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
