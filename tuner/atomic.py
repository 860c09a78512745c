"""Files and folders that appear whole or not at all, even when the process or the disk fails halfway."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ON_WINDOWS = os.name == "nt"
TEMPORARY = re.compile(r"^\.tmp-.+-\d+-[0-9a-f]{8}$")
"""Names of half-written files and folders: `.tmp-<final name>-<pid>-<random>`, always beside their final place."""
ASIDE = re.compile(r"^\.tmp-(?P<name>.+)\.old-\d+-[0-9a-f]{8}$")
"""Names of whole folders that wait for their successor to stand."""

LINKED_BYTES = 256 * 10**6
"""Files from this size on get a second name rather than a copy."""

_ADVICE: Mapping[int, str] = {
    errno.ENOSPC: "free space on that disk, then start the same command again",
    getattr(
        errno, "EDQUOT", -1
    ): "the disk quota is used up: free space or raise it, then start the same command again",
    errno.EROFS: "that file system is read-only: choose another place",
    errno.EACCES: "grant this user access to that place, or choose another one",
    errno.EPERM: "grant this user access to that place, or choose another one",
    errno.EIO: "the disk reports a fault: check it, and put the run on another one",
    errno.EMFILE: "too many open files: raise the limit (`ulimit -n`)",
    errno.ENAMETOOLONG: "choose a shorter name or a place nearer to the root of the disk",
}


def storage_error(error: Exception, path: Path, doing: str = "cannot write") -> StorageError:
    """The StorageError that says what failed, at which path, how much space is free and what to do.

    Args:
        error: an OSError, or safetensors' own error, whose text holds the operating system's.
        path: the file or folder it was about.
        doing: verb in front of the path.
    """
    number = _number(error)
    reason = os.strerror(number).lower() if number else (str(error) or type(error).__name__)
    advice = _ADVICE.get(number or 0, "check the disk and the place, then start the same command again")
    return StorageError(f"{doing} {path}: {reason}{_free(path)}", advice)


def _number(error: Exception) -> int | None:
    """The operating system's number of an error; safetensors only quotes it as '(os error 28)'."""
    if isinstance(error, OSError):
        return error.errno
    quoted = _OS_ERROR.search(str(error))
    return int(quoted[1]) if quoted else None


_OS_ERROR = re.compile(r"os error (\d+)")


def _free(path: Path) -> str:
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return f" ({shutil.disk_usage(place).free / 2**20:,.0f} MB free)"
    return ""


def file_errors() -> tuple[type[Exception], ...]:
    """OSError, and what safetensors raises instead of it; evaluated only once something was raised."""
    loaded = sys.modules.get("safetensors")
    return (OSError, loaded.SafetensorError) if loaded is not None else (OSError,)


@contextlib.contextmanager
def storage(path: Path, doing: str = "cannot write") -> Iterator[None]:
    """Turn the operating system's errors inside into a StorageError about `path` (or the file that the error names).

    Errors that only look like one (a library's OSError without a number, a broken connection) pass as they are.
    """
    try:
        yield
    except file_errors() as error:
        if _number(error) is None or isinstance(error, ConnectionError):
            raise
        named = error.filename if isinstance(error, OSError) else None
        place = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else path
        raise storage_error(error, place, doing) from error


def temporary(target: Path) -> Path:
    """A new name beside `target` for what will become it."""
    return target.with_name(f".tmp-{target.name}-{os.getpid()}-{secrets.token_hex(4)}")


def write(path: Path | str, content: bytes | str, *, durable: bool = True) -> None:
    """Put `content` (text as UTF-8) at `path`: a reader sees the old file or the new one, whole, even after a crash.

    With `durable=False` nothing is fsynced: a killed process still leaves a whole file, a power cut may not. For what
    is rewritten every second.

    Raises: StorageError; the old file is then still there.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = temporary(path)
        try:
            with scratch.open("xb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            _replace(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)


def _replace(scratch: Path, path: Path) -> None:
    """os.replace; Windows refuses while a reader has `path` open, which readers of ours have for a moment only."""
    for _ in range(50 if ON_WINDOWS else 0):
        try:
            os.replace(scratch, path)
        except PermissionError:
            time.sleep(0.01)
        else:
            return
    os.replace(scratch, path)


@contextlib.contextmanager
def folder(target: Path | str) -> Iterator[Path]:
    """Fill a temporary sibling of `target`; when the block ends well it is fsynced and becomes `target` in one rename.

    An existing `target` is replaced: it moves aside first and goes away after the new one stands. A kill between those
    two renames leaves it under its temporary name, which `sweep` puts back.

    Raises: StorageError; the old folder is then still there.
    """
    target = Path(target)
    with storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = temporary(target)
        scratch.mkdir()
    try:
        with storage(target):
            yield scratch
            sync_tree(scratch)
            replace_folder(scratch, target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def replace_folder(source: Path, target: Path) -> None:
    """Rename a finished, fsynced folder to `target`, which may exist. Raises: OSError."""
    aside = None
    if target.exists():
        aside = temporary(target.with_name(target.name + ".old"))
        os.rename(target, aside)
    try:
        os.rename(source, target)
    except OSError:
        if aside is not None:
            os.rename(aside, target)
        raise
    sync_folder(target.parent)
    if aside is not None:
        shutil.rmtree(aside)


def place_file(source: str | Path, target: str | Path) -> None:
    """Put a file's content at `target`: a second name of it where it is large and the disk can, else a copy.

    A whole model's unchanged parts may have many gigabytes, and nothing here ever writes into a file that stands.
    Raises: OSError.
    """
    real = os.path.realpath(source)
    # one that may not be written could not be fsynced under its second name
    if os.path.getsize(real) >= LINKED_BYTES and os.access(real, os.W_OK):
        try:
            os.link(real, target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(real, target)
    else:
        shutil.copyfile(real, target)


def sync_tree(top: Path) -> None:
    """Fsync every file and folder below `top`, and `top`. Raises: OSError."""
    for where, _folders, files in os.walk(top, topdown=False):
        for name in files:
            sync_file(Path(where, name))
        sync_folder(Path(where))


def sync_file(path: Path) -> None:
    """Fsync a file that was written by someone else. Raises: OSError."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))  # Windows flushes only what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Fsync a folder, so that the names in it survive a power cut. Windows has no such call. Raises: OSError."""
    if ON_WINDOWS:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot fsync a folder
            raise
    finally:
        os.close(descriptor)


def sweep(place: Path | str) -> list[str]:
    """Remove what killed writers left in `place`, and put back a folder that was killed between its two renames.

    Only for who holds the run's lock: a live writer's temporary files look the same. Returns the names removed.

    Raises: StorageError.
    """
    place = Path(place)
    removed: list[str] = []
    if not place.is_dir():
        return removed
    with storage(place, "cannot tidy"):
        for entry in sorted(place.iterdir()):
            if not TEMPORARY.match(entry.name):
                continue
            aside = ASIDE.match(entry.name)
            if aside and not (place / aside["name"]).exists():
                os.rename(entry, place / aside["name"])
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            removed.append(entry.name)
    return removed
