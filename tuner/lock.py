"""One process at a time in a run directory: a lock on an open file, which dies with the process and is never stale."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import time
import weakref
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from .atomic import storage, storage_error
from .errors import LockedError

if TYPE_CHECKING:
    from pathlib import Path

ON_WINDOWS = os.name == "nt"
_BUSY = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK, getattr(errno, "EDEADLOCK", errno.EDEADLK)}
_WINDOWS_BYTE = 1 << 30
"""Windows forbids others to read locked bytes, so a byte far behind the text is locked."""
_PATIENCE_S = 0.5
"""How long to wait for the holder to write its name down after it took the lock."""


class Lock:
    """The lock of a directory; use as a context manager.

    The file `.lock` stays behind and means nothing by itself: only the operating system's lock on it counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self) -> Self:
        """Take the lock or fail within a second.

        Raises: LockedError naming the holder's pid and host; StorageError.
        """
        with storage(self.path, "cannot lock"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b")
        try:
            _take(file)
        except OSError as error:
            file.close()
            if error.errno in _BUSY:
                raise self._locked() from None
            raise storage_error(error, self.path, "cannot lock") from error
        self._file = file
        if hasattr(os, "register_at_fork"):
            _release_in_children(self)
        with storage(self.path):
            owner = {"pid": os.getpid(), "host": platform.node(), "started": round(time.time(), 3)}
            file.truncate(0)
            file.write(json.dumps(owner).encode())
            file.flush()
        return self

    def release(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.truncate(0)
            file.close()

    def __enter__(self) -> Self:
        return self if self.held else self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _locked(self) -> LockedError:
        owner: dict[str, Any] = {}
        deadline = time.monotonic() + _PATIENCE_S
        while not owner and time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                text = json.loads(self.path.read_bytes()[:4096])
                owner = text if isinstance(text, dict) else {}
            if not owner:
                time.sleep(0.02)
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}" if owner else "another process"
        return LockedError(
            f"{self.path.parent} is in use by {who}",
            "wait for it, stop it with `tuner stop`, or choose another --run-dir",
        )


def _release_in_children(lock: Lock) -> None:
    """A forked child shares the lock and would keep it alive after its parent died; it drops its copy at birth."""
    reference = weakref.ref(lock)

    def drop() -> None:
        held = reference()
        if held is not None and held._file is not None:
            held._file.close()
            held._file = None

    os.register_at_fork(after_in_child=drop)


def _take(file: BinaryIO) -> None:
    """Lock without waiting. Raises: OSError, with an errno in _BUSY where another process holds it."""
    if ON_WINDOWS:
        import msvcrt

        file.seek(_WINDOWS_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        file.seek(0)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
