"""The files of a zip that a stranger made: read one by one, under limits, and never by the names they claim.

Nothing is unpacked to the disk, so there is nowhere for a path to lead.
"""

from __future__ import annotations

import contextlib
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError
from . import names
from .limits import megabytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from .limits import Limits

BAD_ZIP = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,  # NotImplementedError too
    MemoryError,
)
"""Everything that zipfile is known to raise on bad bytes."""
_MAX_LIST_BYTES = 2**22  # of the archive's own list of its files; the list is read whole before anything can be counted
_SMALL = 2**20  # files up to this size are not held against the ratio: a plain picture packs well
_PIECE = 2**16
_ENCRYPTED = 0x1 | 0x40
_READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, slots=True)
class Member:
    """A file that waits to be judged."""

    name: str
    """As it was given; for reading captions and for showing, never for a path."""
    read: Callable[[int], bytes]
    """Its bytes, at most so many. Raises: DataError with the reason."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a zip holds."""

    members: tuple[Member, ...]
    system: tuple[str, ...]
    """Files that systems leave in zips and nobody misses."""


@contextlib.contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Opened]:
    """The files of a zip; each is read when it is asked for.

    Raises: DataError with the reason if it is refused as a whole.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(_Careful(file)) as archive:  # type: ignore[arg-type]
            yield _listed(archive, path.stat().st_size, limits)
    except BAD_ZIP as error:
        raise DataError(f"not a zip that can be read ({_reason(error)}); pack it again") from error


def _listed(archive: zipfile.ZipFile, size_bytes: int, limits: Limits) -> Opened:
    infos = [info for info in archive.infolist() if not info.filename.endswith("/")]
    system = [info for info in infos if names.kind(info.filename) == "system"]
    files = [info for info in infos if names.kind(info.filename) != "system"]
    if len(files) > limits.zip_files:
        raise DataError(f"holds {len(files):,} files; the limit is {limits.zip_files:,}; pack them in several zips")
    if not files:
        raise DataError("holds no files")
    expanded = sum(info.file_size for info in files)
    if expanded > limits.expanded_bytes:
        most = megabytes(limits.expanded_bytes)
        raise DataError(f"unpacks to {megabytes(expanded)}; the limit is {most}; pack it in several zips")
    if sum(info.compress_size for info in infos) > size_bytes:
        raise DataError("its files overlap, which no packer does")
    budget = [limits.expanded_bytes]
    seen: set[str] = set()
    members = []
    for info in files:
        reason = _against(info, limits) or ("a second file of that name in the zip" if info.filename in seen else "")
        seen.add(info.filename)
        members.append(Member(info.filename, _refuser(reason) if reason else _reader(archive, info, budget)))
    return Opened(tuple(members), tuple(names.display(info.filename) for info in system))


def _against(info: zipfile.ZipInfo, limits: Limits) -> str:
    """Why a file of the zip is not read; '' when it is."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "a link, and not a file" if kind == stat.S_IFLNK else "neither a file nor a folder"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted with a password; pack it without one"
    if names.kind(info.filename) == "zip":
        return "a zip within a zip; unpack it first"
    if info.compress_type not in _READ:
        return "compressed in a way that is not read; pack it again as an ordinary zip"
    if info.file_size > _SMALL and info.file_size > limits.zip_ratio * max(1, info.compress_size):
        return f"unpacks to more than {limits.zip_ratio:.0f} times its size, as no photo does"
    return ""


def _refuser(reason: str) -> Callable[[int], bytes]:
    def refuse(_most: int) -> bytes:
        raise DataError(reason)

    return refuse


def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: list[int]) -> Callable[[int], bytes]:
    """Reads and counts what really comes out, whatever the zip says of itself. For one thread at a time."""

    def read(most: int) -> bytes:
        if info.file_size > most:
            raise DataError(f"{megabytes(info.file_size)}, more than the limit of {megabytes(most)}")
        pieces, size = [], 0
        try:
            with archive.open(info) as file:
                while piece := file.read(_PIECE):
                    size += len(piece)
                    budget[0] -= len(piece)
                    if size > most or budget[0] < 0:
                        raise DataError("unpacks to more than it says")
                    pieces.append(piece)
        except BAD_ZIP as error:
            raise DataError(f"damaged in the zip ({_reason(error)}); pack it again") from error
        return b"".join(pieces)

    return read


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:100].rstrip(".") or type(error).__name__


class _Careful:
    """A file of which nothing large is read at once: zipfile takes its list whole, however long it claims to be."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell, self.close, self.seekable = file.seek, file.tell, file.close, file.seekable

    def read(self, size: int = -1) -> bytes:
        # without a size zipfile reads the end of the file, 64 KiB at the most
        data = self.file.read(min(size, _MAX_LIST_BYTES + 1) if size >= 0 else _MAX_LIST_BYTES + 1)
        if len(data) > _MAX_LIST_BYTES:
            raise DataError(f"its list of files is longer than {megabytes(_MAX_LIST_BYTES)}; pack fewer files together")
        return data
