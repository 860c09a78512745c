"""A run on the terminal: a progress bar where there is one, plain lines now and then where there is not."""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from .redact import redact
from .watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rich.progress import Progress, TaskID

REFRESH_S = 0.5
"""Least time between two pictures of the bar."""
LINE_S = 10.0
"""Least time between two progress lines where there is no terminal."""


@dataclass(slots=True)
class Phase:
    """Where the phase at hand is."""

    name: str
    total: int | None
    start: int
    """Items that were done before it began."""
    began: float
    done: int
    note: str = ""
    """Its latest numbers, such as `loss 0.123, lr 1e-04`."""

    def rate(self, now: float) -> float | None:
        """Items a second since it began; None where nothing was done yet."""
        passed = now - self.began
        return (self.done - self.start) / passed if passed > 0 and self.done > self.start else None

    def left(self, now: float) -> float | None:
        """Seconds until it ends, if it goes on like this."""
        rate = self.rate(now)
        return None if rate is None or self.total is None else (self.total - self.done) / rate


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
        self._phase = Phase(name, total, done, now, done, note)
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
        if self._phase is not None:
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


class Face(ABC):
    """How a Console looks. Where nobody reads it any more it falls silent; that is no reason to end a run."""

    interval: float

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.gone = False

    @abstractmethod
    def line(self, text: str, *, loud: bool = False) -> None: ...

    @abstractmethod
    def start(self, phase: Phase) -> None: ...

    @abstractmethod
    def draw(self, phase: Phase, now: float) -> None: ...

    @abstractmethod
    def stop(self, phase: Phase, now: float) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class Lines(Face):
    """Whole lines, for files and pipes."""

    interval = LINE_S

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self.named: set[str] = set()
        """Phases that were announced; one that is come back to after an interlude is not."""

    def line(self, text: str, *, loud: bool = False) -> None:
        if self.gone:
            return
        try:
            self.stream.write(text + "\n")
            self.stream.flush()
        except (OSError, ValueError):  # a closed pipe, a full disk, a closed stream: log.txt has it all
            self.gone = True

    def start(self, phase: Phase) -> None:
        if phase.name not in self.named and phase.total != 0:
            self.line(f"{phase.name}{count(phase)}")
        self.named.add(phase.name)

    def draw(self, phase: Phase, now: float) -> None:
        rate, left = phase.rate(now), phase.left(now)
        facts = [phase.note, f"{pace(rate)}" if rate else "", f"{duration(left)} left" if left is not None else ""]
        self.line(", ".join([f"{phase.name} {position(phase)}", *filter(None, facts)]))

    def stop(self, phase: Phase, now: float) -> None:
        if phase.done > phase.start and (phase.done == phase.total or now - phase.began > self.interval):
            note = f", {phase.note}" if phase.note else ""
            self.line(f"{phase.name} {position(phase)} in {duration(now - phase.began)}{note}")

    def close(self) -> None:
        """Nothing is held."""


class Bar(Face):
    """One line that moves, and whole lines above it."""

    interval = REFRESH_S

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        from rich.console import Console as Rich
        from rich.progress import BarColumn, Progress, TextColumn

        class Unbroken(Rich):
            """rich ends the process where the reader goes away; a run must outlive its reader."""

            def on_broken_pipe(self) -> None:
                raise BrokenPipeError

        self.rich = Unbroken(file=stream, highlight=False, markup=False, emoji=False)
        self.progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[facts]}", markup=False),
            console=self.rich,
            auto_refresh=False,
            transient=True,
        )
        self.task: TaskID | None = None

    def line(self, text: str, *, loud: bool = False) -> None:
        self._safely(lambda: self.rich.print(text, style="yellow" if loud else None, soft_wrap=True))

    def start(self, phase: Phase) -> None:
        def begin() -> None:
            if self.task is None:
                self.progress.start()
            else:
                self.progress.remove_task(self.task)
            facts = ", ".join(filter(None, [position(phase) if phase.total is not None else "", phase.note]))
            self.task = self.progress.add_task(phase.name, total=phase.total, completed=phase.done, facts=facts)
            self.progress.refresh()

        self._safely(begin)

    def draw(self, phase: Phase, now: float) -> None:
        rate, left = phase.rate(now), phase.left(now)
        facts = [
            position(phase),
            phase.note,
            pace(rate) if rate else "",
            f"{duration(left)} left" if left is not None else "",
        ]

        def show() -> None:
            if self.task is not None:
                self.progress.update(self.task, completed=phase.done, facts=", ".join(filter(None, facts)))
                self.progress.refresh()

        self._safely(show)

    def stop(self, phase: Phase, now: float) -> None:
        if phase.done > phase.start and phase.done == phase.total:
            note = f", {phase.note}" if phase.note else ""
            self.line(f"{phase.name} {position(phase)} in {duration(now - phase.began)}{note}")

    def close(self) -> None:
        if self.task is not None:
            self._safely(self.progress.stop)
            self.task = None

    def _safely(self, act: Callable[[], None]) -> None:
        if self.gone:
            return
        try:
            act()
        except (OSError, ValueError):  # as in Lines.line
            self.gone = True


def is_terminal(stream: IO[str]) -> bool:
    """Whether a bar can move there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def count(phase: Phase) -> str:
    if phase.total is None:
        return ""
    start = f", going on from {phase.start}" if phase.start else ""
    return f": {phase.total} to do{start}"


def position(phase: Phase) -> str:
    return f"{phase.done} of {phase.total}" if phase.total is not None else f"{phase.done}"


def pace(rate: float) -> str:
    """'2.3 a second', '4.1 s each'."""
    return f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each"


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
