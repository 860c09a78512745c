"""A job's sign of life: a lock that its process takes before it becomes the command, and that only its end lets go.

Pid and create time name a process as long as the clock is steady: the second is counted from the moment of booting,
which moves when the clock is set. The lock does not. Windows has none; there, pid and create time are all there is.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    from pathlib import Path

NAME = ".lock"
"""In a job's folder."""


def give(folder: Path) -> None:
    """Hold the lock from now on, also as another program (`exec`), until this process ends. Raises: OSError."""
    if fcntl is not None:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.set_inheritable(descriptor, True)


def given(folder: Path) -> bool:
    """Whether a process holds the lock."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder / NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)
    finally:
        os.close(descriptor)
    return False
