"""One writer at a time, over threads and processes: a short lock on an open file that ends with its holder."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from typing import TYPE_CHECKING

from ..atomic import storage
from ..errors import LockedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 60.0
"""How long a writer waits for the others, each of whom takes some milliseconds."""
_BUSY = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}
_LONGEST_NAP_S = 0.02


@contextlib.contextmanager
def exclusive(path: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lock of the file `path` (made where it is not there, but never its folder).

    Every call opens the file anew, so threads of one process exclude each other, too. Not to be nested.

    Raises: LockedError after `patience_s`; StorageError.
    """
    deadline, nap_s = time.monotonic() + patience_s, 0.001
    while (held := attempt(path)) is None:
        if time.monotonic() > deadline:
            raise LockedError(
                f"{path.parent} has been busy for {patience_s:.0f} seconds", "try again once what works on it is done"
            )
        time.sleep(nap_s * random.uniform(0.5, 1.5))
        nap_s = min(nap_s * 2, _LONGEST_NAP_S)
    try:
        yield
    finally:
        os.close(held)


def attempt(path: Path) -> int | None:
    """The descriptor that holds the lock of `path` until it is closed; None where somebody else has it.

    Raises: StorageError.
    """
    with storage(path, "cannot lock"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        try:
            _take(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                return None
            raise
        return descriptor


def _take(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
