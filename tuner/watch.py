"""Who sees a run: the console, the run directory, trackers. Watchers see; they steer nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


class Watcher:
    """Sees a run. Every method does nothing here; a watcher overrides what it cares for."""

    def say(self, text: str) -> None:
        """One fact for the user, one line."""

    def warn(self, text: str) -> None:
        """Something the user should look at, one line; the run goes on."""

    def phase(self, name: str, total: int | None = None, done: int = 0) -> None:
        """A phase begins (caching, training, sampling, saving ...): `total` items, `done` of them there already."""

    def progress(self, done: int) -> None:
        """How many items of the phase are done. Called often; must be cheap."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of the interval that ends with `step`: loss, lr, grad_norm, it_s ..."""

    def samples(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        """(prompt, file) of the samples drawn at `step`."""

    def saved(self, step: int, files: Sequence[Path]) -> None:
        """Files that were written and loaded back."""

    def best(self, step: int, loss: float) -> None:
        """The saved step with the lowest validation loss so far; told again when a run goes on."""

    def close(self) -> None:
        """The run is over, in whatever way."""


class Watchers(Watcher):
    """Several watchers as one."""

    def __init__(self, members: Sequence[Watcher]) -> None:
        self.members = tuple(members)

    def say(self, text: str) -> None:
        for member in self.members:
            member.say(text)

    def warn(self, text: str) -> None:
        for member in self.members:
            member.warn(text)

    def phase(self, name: str, total: int | None = None, done: int = 0) -> None:
        for member in self.members:
            member.phase(name, total, done)

    def progress(self, done: int) -> None:
        for member in self.members:
            member.progress(done)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for member in self.members:
            member.metrics(step, values)

    def samples(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        for member in self.members:
            member.samples(step, pictures)

    def saved(self, step: int, files: Sequence[Path]) -> None:
        for member in self.members:
            member.saved(step, files)

    def best(self, step: int, loss: float) -> None:
        for member in self.members:
            member.best(step, loss)

    def close(self) -> None:
        for member in self.members:
            member.close()
