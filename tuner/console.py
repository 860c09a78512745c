"""A run on the terminal: what the person who started it gets to see."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING

from .redact import redact
from .terminal import Bar, Face, Lines, Phase, duration, is_terminal
from .watch import Watcher

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Console", "duration"]


class Console(Watcher):
    """Shows a run to the person who started it.

    Args:
        stream: where to; stdout if None. What it is (terminal or file) is found out here.
        clock: seconds, for tests.
    """

    def __init__(self, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        out: IO[str] = stream or sys.stdout
        self._face: Face = Bar(out) if is_terminal(out) else Lines(out)
        self._clock, self._began, self._drawn = clock, clock(), float("-inf")
        self._phase: Phase | None = None
        self._firsts: dict[str, float] = {}
        self.warnings = 0
        self.loss: float | None = None
        """The latest."""

    @property
    def seconds(self) -> float:
        """Since this console was made."""
        return self._clock() - self._began

    def say(self, text: str) -> None:
        self._face.line(redact(text))

    def warn(self, text: str) -> None:
        self.warnings += 1
        self._face.line(f"warning: {redact(text)}", loud=True)

    def phase(self, name: str, total: int | None = None, done: int = 0) -> None:
        self._end_phase()
        now = self._clock()
        note = f"loss {self.loss:.4f}" if name == "training" and self.loss is not None else ""
        self._phase = Phase(name, total, done, now, self._firsts.setdefault(name, now), done, note)
        self._face.start(self._phase)
        self._drawn = now

    def progress(self, done: int) -> None:
        phase = self._phase
        if phase is None:
            return
        phase.done = done
        now = self._clock()
        if now - self._drawn >= self._face.interval:
            self._drawn = now
            self._face.draw(phase, now)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.loss = values.get("loss", self.loss)
        if "validation_loss" in values:
            self.say(f"step {step}: validation loss {values['validation_loss']:.4f}")
        elif self._phase is not None:
            forms = {"loss": "loss {:.4f}", "lr": "lr {:.1e}"}
            self._phase.note = ", ".join(form.format(values[name]) for name, form in forms.items() if name in values)

    def samples(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        if pictures:
            what = "1 sample" if len(pictures) == 1 else f"{len(pictures)} samples"
            self.say(f"step {step}: {what} in {pictures[0][1].parent}")

    def saved(self, step: int, files: Sequence[Path]) -> None:
        if files:
            names = ", ".join(file.name for file in files if file.suffix == ".safetensors") or files[0].name
            self.say(f"step {step}: saved {names} in {files[0].parent}, loaded back and compared")

    def close(self) -> None:
        self._end_phase()
        self._phase = None
        self._face.close()

    def _end_phase(self) -> None:
        phase = self._phase
        if phase is not None:
            self._face.stop(phase, self._clock())
