"""A zip to hand over: what a run made for each tool, its card, its picture, and which file goes where."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from . import atomic
from .errors import DataError, StorageError, UsageError
from .outcome import adapter_folder, files_of, title_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .watch import Watcher

NOTES, CARD = "LOAD.txt", "README.md"
PLAIN = (".safetensors", ".png")
"""Endings of what is stored as it is, since it would not become smaller."""
CHUNK = 1 << 20
SPARE = 1 << 20
"""Bytes that a zip needs besides what is in it, more than it ever does."""
STALE_S = 600.0
"""A half-written zip of a process that is gone and that nobody touched for this long is removed."""
_MB = 10**6


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a zip."""

    name: str
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Package:
    """A zip that was read back."""

    file: Path
    size: int
    """Bytes."""
    members: tuple[Member, ...]


def pack(
    run: Path, watcher: Watcher, *, step: int | None = None, out: Path | None = None, force: bool = False
) -> Package:
    """Write the zip, read it back, and only then give it its name.

    Args:
        run: a run directory.
        watcher: sees how far it is.
        step: take what this checkpoint saved instead of the final files.
        out: the file; None is `<run>.zip`, or `<run>-<step>.zip`, here.
        force: replace a file that is there.

    Raises: UsageError where there is nothing to pack or a file is in the way; DataError where an adapter file is
        broken; StorageError, and what was there before is then as it was.
    """
    folder = adapter_folder(run, step)
    title = title_of(run, step)
    out = Path(f"{title}.zip") if out is None else out.expanduser()
    _check_target(out, force=force)
    files = files_of(folder)
    check_files(folder, files)
    from .load_notes import notes

    told = notes(folder, title).encode()
    sizes = {path: _size(folder / path) for path in files}
    _check_room(out, sum(sizes.values()) + len(told))
    with atomic.storage(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    scratch = atomic.temporary(out)
    try:
        with atomic.storage(out):
            members = _write(scratch, title, folder, sizes, told, watcher)
            atomic.sync_file(scratch)
            _read_back(scratch, out, members, watcher)
            os.replace(scratch, out)
            atomic.sync_folder(out.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    return Package(out, out.stat().st_size, tuple(members))


def _check_target(out: Path, *, force: bool) -> None:
    """Raises: UsageError."""
    if out.suffix.lower() != ".zip":
        raise UsageError(f"--out {out} does not end in .zip", "no other format is written")
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "give the name of a file to --out")
    if out.exists() and not force:
        raise UsageError(f"{out} is there already", "choose another name, or replace it with --force")


def check_files(folder: Path, files: Sequence[Path]) -> None:
    """That an outcome is whole: adapter files that can be read, and a card.

    Raises: DataError naming what is broken; UsageError where the card is not there.
    """
    from .formats.container import read_header
    from .formats.find import find_files
    from .formats.inspect import inspect_file

    for path in files:
        if path.suffix == ".safetensors":
            read_header(folder / path)
    for file in find_files(folder):
        if problem := inspect_file(file)["problem"]:
            raise DataError(f"{file}: {problem}", "save it again: start the run again, or take another --step")
    if Path(CARD) not in files:
        raise UsageError(
            f"{folder} has no {CARD}, the card that says what this is", "put one there, or take another --step"
        )


def _size(path: Path) -> int:
    with atomic.storage(path, "cannot read"):
        return path.stat().st_size


def _check_room(out: Path, needed: int) -> None:
    """Raises: StorageError where the disk cannot hold the zip."""
    place = next(parent for parent in (out.parent, *out.absolute().parents) if parent.exists())
    with atomic.storage(place, "cannot look at"):
        free = shutil.disk_usage(place).free
    if free < needed + SPARE:
        raise StorageError(
            f"{out} needs {needed / _MB:,.0f} MB, and {free / _MB:,.0f} MB are free",
            "free space, or choose another disk: --out",
        )


def _sweep(out: Path) -> None:
    """Remove what killed predecessors left of this very file. Raises: StorageError."""
    import psutil

    with atomic.storage(out.parent, "cannot tidy"):
        for path in sorted(out.parent.glob(f".tmp-{glob.escape(out.name)}-*-*")):
            pid = path.name.rsplit("-", 2)[1]
            gone = atomic.TEMPORARY.match(path.name) and pid.isdigit() and not psutil.pid_exists(int(pid))
            if gone and time.time() - path.stat().st_mtime > STALE_S:
                path.unlink(missing_ok=True)


def _write(
    scratch: Path, title: str, folder: Path, sizes: Mapping[Path, int], told: bytes, watcher: Watcher
) -> list[Member]:
    """Write every member, a chunk at a time. Raises: OSError; StorageError where a file changes meanwhile."""
    total = sum(sizes.values()) + len(told)
    watcher.phase("packing (MB)", total // _MB)
    members, done = [], 0
    first = sorted(sizes, key=lambda path: (path != Path(CARD), path.parts))
    with zipfile.ZipFile(scratch, "x", allowZip64=True) as archive:
        members.append(_add(archive, f"{title}/{NOTES}", len(told), [told]))
        for path in first:
            with (folder / path).open("rb") as source:
                members.append(_add(archive, f"{title}/{path.as_posix()}", sizes[path], _chunks(source)))
            done += sizes[path]
            watcher.progress(done // _MB)
    return members


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def _add(archive: zipfile.ZipFile, name: str, size: int, chunks: Iterable[bytes]) -> Member:
    """Write one member; its date is fixed, so that equal files make equal zips."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_STORED if name.endswith(PLAIN) else zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    info.file_size = size  # so that a large one is written as zip64
    digest, written = hashlib.sha256(), 0
    with archive.open(info, "w") as target:
        for chunk in chunks:
            digest.update(chunk)
            written += len(chunk)
            if written > size:
                break
            target.write(chunk)
    if written != size:
        raise StorageError(f"{name} changed while it was packed", "wait until the run has saved, then start again")
    return Member(name, size, digest.hexdigest())


def _read_back(scratch: Path, out: Path, members: Sequence[Member], watcher: Watcher) -> None:
    """That the zip holds what was put in: names, sizes, checksums, every byte. Raises: OSError; StorageError."""
    watcher.phase("reading back (MB)", sum(member.size for member in members) // _MB)
    done = 0
    try:
        with zipfile.ZipFile(scratch) as archive:
            if archive.namelist() != [member.name for member in members]:
                raise StorageError(f"{out}: the zip lists other files than were put in", "check the disk")
            for member in members:
                digest = hashlib.sha256()
                with archive.open(member.name) as source:  # compares the checksum when it comes to the end
                    for chunk in _chunks(source):
                        digest.update(chunk)
                if digest.hexdigest() != member.sha256:
                    raise StorageError(f"{out}: {member.name} did not come out as it went in", "check the disk")
                done += member.size
                watcher.progress(done // _MB)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise StorageError(f"{out}: the zip cannot be read back: {error}", "check the disk") from error
