"""Every fault a user can meet: what is wrong, where, what to do, and the exit code that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class TunerError(Exception):
    """An expected fault. Printed as one message, never as a traceback.

    Args:
        message: what is wrong and where, lower case, one line (or one line a problem).
        hint: what to do next, one sentence; may be empty.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class UsageError(TunerError):
    """A command or recipe that cannot be meant."""

    exit_code = 2
    kind = "usage"


class RecipeError(UsageError):
    """Every problem of a recipe at once, one `file:line:col: key.path: what is wrong` a line."""

    kind = "recipe"

    def __init__(self, problems: Sequence[str], hint: str = "") -> None:
        super().__init__("\n".join(problems), hint)
        self.problems = tuple(problems)


class DataError(TunerError):
    """Pictures, captions or a base model that cannot be used."""

    exit_code = 65
    kind = "data"


class NumbersError(TunerError):
    """A loss, gradient or encoding that is not finite."""

    exit_code = 65
    kind = "numbers"


class StorageError(TunerError):
    """A disk that is full or cannot be read or written."""

    exit_code = 74
    kind = "storage"


class LockedError(TunerError):
    """A run directory that another process holds."""

    exit_code = 75
    kind = "locked"


class Stopped(TunerError):
    """A signal or a `stop` command ended the run; its state is saved."""

    kind = "stopped"

    def __init__(self, message: str, signal_number: int | None = None) -> None:
        super().__init__(message, "start the same command again to go on from here")
        self.signal_number = signal_number

    @property
    def status(self) -> int:
        """128 + the signal's number, as shells report it; 0 when `tuner stop` asked."""
        return 128 + self.signal_number if self.signal_number else 0
