"""The edits of a dataset that can be taken back, kept on the disk, so that they outlive a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field

from .. import atomic
from .record import Id, Picture, read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

FILE = "history.json"
MAX_STEPS = 100
"""Edits that can be taken back; older ones are forgotten, and what they removed goes for good."""
MAX_TEXT = 4_000_000
"""Characters of captions that all the edits remember together; the latest edit is remembered whatever its size."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A picture that was taken out, and where it stood."""

    place: Annotated[int, Field(ge=0)]
    picture: Picture


@dataclass(frozen=True, slots=True)
class Step:
    """One edit."""

    what: str
    """In words, for the button that takes it back."""
    before: Mapping[Id, str] = field(default_factory=dict)
    """Captions that it changed, by picture."""
    after: Mapping[Id, str] = field(default_factory=dict)
    removed: tuple[Removed, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """What was done, and what was taken back of it; the latest last."""

    done: tuple[Step, ...] = ()
    undone: tuple[Step, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises: DataError, StorageError."""
        file = folder / FILE
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise atomic.storage_error(error, file, "cannot read") from error
        return read_json(data, cls, file)

    def write(self, folder: Path) -> None:
        """Raises: StorageError."""
        atomic.write(folder / FILE, write_json(self))

    def plus(self, step: Step) -> History:
        """After one more edit; what was taken back cannot be done again then."""
        done = [*self.done, step][-MAX_STEPS:]
        sizes = [sum(map(len, (*one.before.values(), *one.after.values()))) for one in done]
        while len(done) > 1 and sum(sizes) > MAX_TEXT:
            del done[0], sizes[0]
        return History(tuple(done))

    def back(self) -> tuple[History, Step | None]:
        """Without the latest edit, and that."""
        if not self.done:
            return self, None
        step = self.done[-1]
        return replace(self, done=self.done[:-1], undone=(*self.undone, step)), step

    def again(self) -> tuple[History, Step | None]:
        """With the edit again that was taken back last, and that."""
        if not self.undone:
            return self, None
        step = self.undone[-1]
        return replace(self, done=(*self.done, step), undone=self.undone[:-1]), step

    def removed_files(self) -> set[str]:
        """Pictures that can still come back."""
        return {removed.picture.file_name for step in self.done for removed in step.removed}
