"""How a run looks on a stream: a bar that moves on a terminal, whole lines now and then anywhere else."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
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
    first: float
    """When a phase of this name first began; interludes (samples, saves) lie between."""
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
        if phase.done > phase.start and (phase.done == phase.total or now - phase.first > self.interval):
            note = f", {phase.note}" if phase.note else ""
            self.line(f"{phase.name} {position(phase)} in {duration(now - phase.first)}{note}")

    def close(self) -> None:
        """Nothing is held."""


class Bar(Face):
    """One line that moves, and whole lines above it."""

    interval = REFRESH_S

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self.progress: Progress | None = None
        """Made when there is something to wait for: what is done at once needs no bar, nor the time to import one."""
        self.task: TaskID | None = None

    def line(self, text: str, *, loud: bool = False) -> None:
        def show() -> None:
            if self.progress is None:
                self.stream.write(f"\x1b[33m{text}\x1b[0m\n" if loud else f"{text}\n")
            else:
                self.progress.console.print(text, style="yellow" if loud else None, soft_wrap=True)

        self._safely(show)

    def start(self, phase: Phase) -> None:
        if self.progress is not None or phase.total is None:
            self._show(phase, [position(phase) if phase.total is not None else "", phase.note], fresh=True)

    def draw(self, phase: Phase, now: float) -> None:
        rate, left = phase.rate(now), phase.left(now)
        facts = [
            position(phase),
            phase.note,
            pace(rate) if rate else "",
            f"{duration(left)} left" if left is not None else "",
        ]

        self._show(phase, facts)

    def _show(self, phase: Phase, facts: Sequence[str], *, fresh: bool = False) -> None:
        """Draw the bar; a fresh phase gets a bar of its own."""
        said = ", ".join(filter(None, facts))

        def show() -> None:
            if self.progress is None:
                self.progress = rich_progress(self.stream)
                self.progress.start()
            if self.task is None or fresh:
                if self.task is not None:
                    self.progress.remove_task(self.task)
                self.task = self.progress.add_task(phase.name, total=phase.total, completed=phase.done, facts=said)
            self.progress.update(self.task, completed=phase.done, facts=said)
            self.progress.refresh()

        self._safely(show)

    def stop(self, phase: Phase, now: float) -> None:
        if phase.done > phase.start and phase.done == phase.total:
            note = f", {phase.note}" if phase.note else ""
            self.line(f"{phase.name} {position(phase)} in {duration(now - phase.first)}{note}")

    def close(self) -> None:
        if self.progress is not None:
            self._safely(self.progress.stop)
        self.progress = self.task = None

    def _safely(self, act: Callable[[], None]) -> None:
        if self.gone:
            return
        try:
            act()
        except (OSError, ValueError):  # as in Lines.line
            self.gone = True


def rich_progress(stream: IO[str]) -> Progress:
    """A bar that is drawn when it is told to, and gone when it is done."""
    from rich.console import Console as Rich
    from rich.progress import BarColumn, Progress, TextColumn

    class Unbroken(Rich):
        """rich ends the process where the reader goes away; a run must outlive its reader."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[facts]}", markup=False),
        console=Unbroken(file=stream, highlight=False, markup=False, emoji=False),
        auto_refresh=False,
        transient=True,
    )


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
