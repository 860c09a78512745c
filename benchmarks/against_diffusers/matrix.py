"""Subjects x seeds x sides, one after the other; what is done is kept, so that it can be stopped at any time."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import timing
from .machine import digest
from .subjects import class_pictures
from .terms import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .sides import Side
    from .subjects import Taught
    from .terms import Terms

TIMED, FAILED = "timed.json", "failed.txt"


class Changed(Exception):
    """The folder holds cells of another comparison."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One side teaching one subject with one seed."""

    subject: Taught
    seed: int
    side: Side
    place: Path

    @property
    def label(self) -> str:
        return f"{self.subject.name} seed {self.seed} {self.side.name}"

    @property
    def timed(self) -> dict[str, Any] | None:
        """What it took and left; None while it is not done."""
        return read(self.place / TIMED)

    @property
    def failure(self) -> str | None:
        """How its last try ended, where it left no adapter."""
        path = self.place / FAILED
        return path.read_text(encoding="utf-8") if path.is_file() else None

    @property
    def adapter(self) -> Path:
        """The file it left; only of a cell that is done."""
        timed = self.timed
        assert timed is not None
        return self.place / timed["adapter"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is compared, and the folder where the results are kept."""

    place: Path
    terms: Terms
    subjects: Sequence[Taught]
    seeds: Sequence[int]
    sides: Sequence[Side]
    shared_prior: str | None
    """The base that draws class pictures for all; None lets each tool draw its own."""
    limit_s: float
    """The longest that one training may take."""

    def cells(self) -> Iterator[Cell]:
        """Every cell; which side begins goes round, so that none always finds the machine as another left it."""
        turn = 0
        for seed in self.seeds:  # all subjects for one seed, then the next: a stopped matrix is still balanced
            for subject in self.subjects:
                for offset in range(len(self.sides)):
                    side = self.sides[(turn + offset) % len(self.sides)]
                    name = side.name.replace(" ", "_").replace("'", "")
                    place = self.place / "cells" / subject.name / f"seed-{seed}" / name
                    yield Cell(subject, seed, side, place)
                turn += 1

    def train(self, said: Callable[[str], None]) -> None:
        """Do every cell that is not done, those that failed before too; a failure is kept, and the next one tried."""
        todo = [cell for cell in self.cells() if cell.timed is None]
        said(f"{len(todo)} trainings to do, {len(list(self.cells())) - len(todo)} done before")
        for number, cell in enumerate(todo, 1):
            try:
                took = self._train(cell)
            except timing.Failed as error:
                write(cell.place / FAILED, f"{error}\n")
                said(f"{number} of {len(todo)}  {cell.label}: FAILED: {str(error).splitlines()[0]}")
            else:
                said(f"{number} of {len(todo)}  {cell.label}: {took.wall_s:.1f} s, {took.cpu_s:.1f} s of cpu")

    def _train(self, cell: Cell) -> timing.Timed:
        """Raises: timing.Failed."""
        own = None
        if self.shared_prior is not None and self.terms.prior:
            own = class_pictures(cell.subject, self.terms, self.shared_prior, self.place / "class")
        shutil.rmtree(cell.place, ignore_errors=True)  # what a stopped try left would not be a cold start
        cell.place.mkdir(parents=True)
        home = self.place / "home"
        home.mkdir(exist_ok=True)
        job = Job(cell.place, cell.subject.photos, cell.subject.instance, cell.subject.plain, cell.seed, own)
        command = cell.side.command(job, self.terms)
        env = timing.environment(self.terms.threads, home)
        took = timing.run(command, env, cell.place / "log.txt", self.limit_s)
        shutil.rmtree(cell.place / "cache", ignore_errors=True)
        kept = {
            **asdict(took),
            "adapter": str(command.adapter.relative_to(cell.place)),
            "argv": command.argv,
            "code": code(),
        }
        write(cell.place / TIMED, json.dumps(kept, indent=1) + "\n")
        return took


def claim(place: Path, facts: Mapping[str, Any]) -> None:
    """Take `place` for the comparison that `facts` describe, or go on with it.

    Raises: Changed where it holds another one's cells; a table of mixed terms would compare nothing.
    """
    path = place / "settings.json"
    facts = json.loads(json.dumps(facts))
    before = read(path)
    if before is not None and before != facts:
        other = sorted(key for key in before.keys() | facts.keys() if before.get(key) != facts.get(key))
        told = "; ".join(f"{key}: {before.get(key)!r}, now {facts.get(key)!r}" for key in other)
        raise Changed(f"{place} holds another comparison ({told}); choose another --out")
    write(path, json.dumps(facts, indent=1) + "\n")


def code() -> str:
    """Which state of tuner's own code is at work."""
    import tuner

    return digest(Path(tuner.__file__).parent, "*.py")


def read(path: Path) -> dict[str, Any] | None:
    """A JSON file, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(path: Path, text: str) -> None:
    """Whole or not at all, so that a cell that was interrupted is a cell that was not done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)
