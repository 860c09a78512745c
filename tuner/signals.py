"""Ctrl-C and termination signals as a request that the run honours at its next step boundary."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_ECHO_S = 0.1
"""A launcher often forwards the terminal's Ctrl-C, so it arrives twice at once; that is one press."""


class StopRequests:
    """While entered, the first signal only sets `number`; a second Ctrl-C ends the process at once with code 130.

    Handlers are put in the main thread only (elsewhere Python allows none, and nothing is changed), and the earlier
    ones come back on exit. A SIGHUP that is ignored, as under `nohup`, stays ignored.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.number: int | None = None
        """The number of the first signal that arrived, or None."""
        self._clock = clock
        self._interrupted_at: float | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                continue
            self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        now = self._clock()
        if number == signal.SIGINT:
            if self._interrupted_at is not None and now - self._interrupted_at > _ECHO_S:
                _exit_now()
            if self._interrupted_at is None:
                self._interrupted_at = now
        if self.number is None:
            self.number = number


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """While entered, a signal raises Stopped where it finds the process: for phases that start over at no cost.

    Raises: Stopped with the signal's number.
    """
    from .errors import Stopped

    def arrived(number: int, _frame: FrameType | None) -> None:
        raise Stopped("stopped before the first step; what was encoded is kept", number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                before[number] = signal.signal(number, arrived)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _exit_now() -> None:
    """End without unwinding: what is on disk is whole at every moment, and nothing may hold up a second Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            if stream.isatty():
                stream.write("\x1b[?25h\n")  # a progress bar may have hidden the cursor
            stream.flush()
    os._exit(130)
