"""A plan as the Check card: plain values and sentences, of which the page takes what it has room for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tuner.planning import page as pages
from tuner.planning import size
from tuner.terminal import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tuner.planning import Plan

    from .document import Problem


@dataclass(frozen=True, slots=True)
class Seen:
    """How often the pictures of one role are seen."""

    role: str
    pictures: int
    visits: float
    text: str
    """`your 12 pictures, each seen about 66 times`."""


@dataclass(frozen=True, slots=True)
class BucketView:
    """Pictures that are trained at one size."""

    size: str
    pictures: int
    cropped: float
    """Share of the area that is cut off, on average."""


@dataclass(frozen=True, slots=True)
class MemoryView:
    """What it needs of the machine at hand."""

    bytes: int
    machine: str
    has: int | None
    """Bytes; None where the machine does not say."""
    phase: str
    """When it needs the most."""
    text: str

    @property
    def fits(self) -> bool | None:
        return None if self.has is None else self.bytes <= self.has


@dataclass(frozen=True, slots=True)
class DiskView:
    """What it writes to one place."""

    name: str
    """`run` or `cache`."""
    bytes: int
    free: int | None
    text: str


@dataclass(frozen=True, slots=True)
class TimeView:
    """How long training takes; seconds are None without a run like this one to go by."""

    seconds: float | None
    text: str
    run: str = ""
    """The run that it was measured on."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the card's details."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckView:
    """The card. Where the recipe has problems there is nothing but them."""

    problems: tuple[Problem, ...] = ()
    title: str = ""
    steps: int = 0
    epochs: float = 0.0
    steps_text: str = ""
    seen: tuple[Seen, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    """(file, reason) of every file that is not used."""
    buckets: tuple[BucketView, ...] = ()
    memory: MemoryView | None = None
    disk: tuple[DiskView, ...] = ()
    time: TimeView | None = None
    base: tuple[str, ...] = ()
    """What to know of the base before it is fetched."""
    notes: tuple[str, ...] = ()
    """Worth knowing."""
    warnings: tuple[str, ...] = ()
    """Why the run would be refused here."""
    rows: tuple[Row, ...] = ()
    """Every fact, as `tuner plan` prints it."""

    @property
    def ok(self) -> bool:
        """Whether the run would start."""
        return not self.problems and not self.warnings


def card(planned: Plan, *, run: str, base: tuple[str, ...], notes: Iterable[str]) -> CheckView:
    """A plan as the page shows it; `run` is the one that its speed was measured on."""
    here = planned.memory["here"]
    machine = planned.machine
    has = f"; {machine.name} has {size(machine.memory)}" if machine.memory else f" on {machine.name}"
    memory = MemoryView(
        here.peak.total,
        machine.name,
        machine.memory,
        here.peak.name,
        f"about {size(here.peak.total)} at the most, while {here.peak.name}{has}",
    )
    total = planned.length
    steps = pages.plural(total.steps, "step")
    advice = [planned.validation.advice] if planned.validation and planned.validation.advice else []
    return CheckView(
        title=planned.title,
        steps=total.steps,
        epochs=total.epochs,
        steps_text=f"{steps}, {pages.plural_of(total.epochs, 'round')} through your pictures",
        seen=tuple(_seen(planned)),
        refused=tuple((name, reason) for name, reason in planned.refused),
        buckets=tuple(
            BucketView(f"{bucket.size[0]} x {bucket.size[1]}", bucket.pictures, bucket.cropped)
            for bucket in planned.buckets
        ),
        memory=memory,
        disk=tuple(_disk(planned)),
        time=_time(planned, run),
        base=base,
        notes=tuple(dict.fromkeys([*planned.advice, *advice, *planned.notes, *notes])),
        warnings=tuple(planned.refusals),
        rows=tuple(_rows(planned)),
    )


def called(view: CheckView, names: Mapping[str, str]) -> CheckView:
    """The card with pictures under the names that the user knows; the files of a dataset have names of our own."""
    if not names:
        return view
    files = re.compile("|".join(map(re.escape, names)))

    def put(text: str) -> str:
        return files.sub(lambda found: names[found[0]], text)

    return replace(
        view,
        refused=tuple((put(name), put(reason)) for name, reason in view.refused),
        notes=tuple(map(put, view.notes)),
        rows=tuple(Row(row.name, tuple(map(put, row.lines))) for row in view.rows),
    )


def _seen(planned: Plan) -> Iterator[Seen]:
    for number, role in enumerate(planned.exposures):
        drawn = " (drawn by the base first)" if number and planned.generate else ""
        whose = "your " if number == 0 else ""
        noun = "class picture" if role.role == "prior" else "picture" if number == 0 else f"{role.role} picture"
        text = f"{whose}{pages.plural(role.pictures, noun)}{drawn}; each is seen {pages.times(role.visits)}"
        if role.mirrors:
            text = f"{role.role}: the {role.mirrors} pictures again, kept as the untouched base sees them"
        yield Seen(role.role, role.pictures, role.visits, text)


def _disk(planned: Plan) -> Iterator[DiskView]:
    for place in planned.places:
        free = place.free()
        have = f"; {size(free)} is free" if free is not None else ""
        what = "the run" if place.name == "run" else "the cache"
        text = f"{what}: {size(place.total)} at the most{have}"
        yield DiskView(place.name, place.total, free, text)


def _time(planned: Plan, run: str) -> TimeView:
    if planned.seconds is None:
        return TimeView(None, "not known: no run like this one was measured here. It shows after the first steps")
    validation = planned.validation_seconds or 0.0
    more = f", and {duration(validation)} of validation" if validation >= 1 else ""
    rate = f"{planned.steps_a_second:.2g} steps a second"
    text = f"about {duration(planned.seconds)} of training{more}, at the {rate} of the run {run}"
    return TimeView(planned.seconds + validation, text, run)


def _rows(planned: Plan) -> Iterator[Row]:
    parts = (
        ("Steps", pages.step_lines),
        ("Pictures", pages.picture_lines),
        ("Sizes", pages.bucket_lines),
        ("Captions", pages.caption_lines),
        ("Trains", pages.train_lines),
        ("Cache", pages.cache_lines),
        ("Memory", pages.memory_lines),
        ("Disk", pages.disk_lines),
        ("Time", pages.time_lines),
    )
    for name, lines in parts:
        yield Row(name, tuple(lines(planned)))
    if planned.cards:
        yield Row("Cards", tuple(map(str, planned.cards)))
