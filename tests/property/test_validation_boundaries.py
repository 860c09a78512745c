"""Whatever the intervals and wherever a run stops, each step that is due is measured once, before it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.best import History, Measured
from tuner.boundaries import Actions, Boundary
from tuner.engine import _Run
from tuner.planning.length import Length
from tuner.planning.validation_cost import validation_cost
from tuner.processes import Processes
from tuner.recipe import Recipe
from tuner.selection import Selection
from tuner.watch import Watcher

EVERY = st.integers(1, 13) | st.builds(lambda n: {"epochs": n}, st.integers(1, 4))
PER_EPOCH = 3


class Silent(Boundary):
    def _report(self, done: int, measured: Mapping[str, torch.Tensor], *, interval_ends: bool) -> None:
        """No training stands behind it."""


def recipe(steps: int, every: Any, save: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": {"name": "sd15", "model": "toybox"},
            "adapters": "lora",
            "task": "finetune",
            "data": {"resolution": 64, "images": {"path": "here", "caption": "a dog"}},
            "train": {"steps": steps},
            "validation": {"every": every, "hold_out": 0.5},
            "save": {"every": save},
        }
    )


class Machine:
    """A run without a model: its steps, its boundaries, and what they wrote down."""

    def __init__(self, made: Recipe) -> None:
        self.recipe, self.steps = made, made.train.steps or 0
        self.events: list[tuple[str, int]] = []
        self.kept: dict[int, Measured] = {}
        """validation.json."""
        self.saved = 0

    def go(self, stop_after: int | None, *, killed: bool) -> None:
        """Go on from the newest state until a stop is asked for (or the process is killed) after `stop_after`."""
        start = self.saved
        asked: list[str] = []
        boundary = Silent(
            self.recipe,
            SimpleNamespace(guard=SimpleNamespace(skipped=torch.zeros(())), average=None),  # type: ignore[arg-type]
            Actions(
                validate=self.measure,
                sample=lambda step: None,
                save=self.save,
                commands=list,
                signal=lambda: 15 if asked else None,
                files=lambda step: [],
            ),
            Watcher(),
            Processes(),
            self.steps,
            PER_EPOCH,
        )
        run: Any = object.__new__(_Run)
        run.recipe, run.steps = self.recipe, self.steps
        run.place = SimpleNamespace(path="", checkpoints=None, samples=None)
        history = History(None, {})  # type: ignore[arg-type]  # writes nothing
        history.values = {step: value for step, value in self.kept.items() if step <= start}
        self.kept = history.values
        run.selection = Selection(run.place, Watcher(), history=history)
        run.selection.tell = lambda: None
        self.catch_up(run, boundary, start)
        for step in range(start, self.steps):
            if killed and step == stop_after:
                return
            asked += ["stop"] if step + 1 == stop_after else []
            if boundary(step + 1):
                return

    def catch_up(self, run: Any, boundary: Boundary, start: int) -> None:
        """The engine's own, but for samples, rotating and exporting."""
        boundary.sample_every = None
        saver = SimpleNamespace(rotate=lambda step: None)
        with patch("tuner.engine.missing_export", lambda *_: False):
            run._catch_up(saver, boundary, start, draw=lambda: None, measure=lambda: self.measure(start))

    def measure(self, step: int) -> None:
        assert step not in self.kept
        self.kept[step] = Measured(1.0, ())
        self.events.append(("measure", step))

    def save(self, step: int) -> None:
        self.saved = step
        self.events.append(("save", step))


def in_steps(every: Any) -> int:
    return every if isinstance(every, int) else every["epochs"] * PER_EPOCH


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), EVERY, EVERY | st.none(), st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=3))
def test_each_due_step_is_measured_once(steps, every, save, stops):
    machine = Machine(recipe(steps, every, save))
    for after, killed in sorted(stops):
        machine.go(after, killed=killed)
    machine.go(None, killed=False)
    interval = in_steps(every)
    due = {0, steps, *range(interval, steps + 1, interval)}
    assert machine.kept.keys() == due
    if not any(killed for _, killed in stops):
        assert sorted(machine.events) == sorted({*machine.events})  # nothing twice
    for step in due - {0}:
        if ("save", step) in machine.events:
            last_save = max(i for i, event in enumerate(machine.events) if event == ("save", step))
            stopped_there = step < steps and any(after == step for after, _ in stops)
            assert stopped_there or machine.events.index(("measure", step)) < last_save
    whole = Length(PER_EPOCH, 1, PER_EPOCH, steps)
    cost = validation_cost(machine.recipe, 2, 1, whole)
    assert cost is not None
    assert cost.measurements == len(due)
