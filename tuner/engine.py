"""From a recipe to a verified adapter: scan, cache, fit, export. Every door of tuner leads through here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checkpoint, samples
from .account import account
from .entering import refuse_finished, set_aside, unmoved_by_refusal
from .errors import Stopped
from .preparing import Preparing
from .rundir import Recorder, RunDir
from .saving import Saver, missing_export
from .selection import Selection
from .signals import StopRequests, stopping_at_once
from .watch import Watcher, Watchers

if TYPE_CHECKING:
    from .best import Best
    from .boundaries import Boundary
    from .preparing import Ready
    from .processes import Processes
    from .recipe import Recipe
    from .student import Student
    from .training import Training


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind."""

    run_dir: Path
    adapter: Path
    """The folder with the verified files."""
    step: int
    """Optimizer steps done."""
    best: Best | None = None
    """The saved step with the lowest validation loss; None without validation."""


def run(
    recipe: Recipe,
    *,
    run_dir: Path | str | None = None,
    new: bool = False,
    watchers: Sequence[Watcher] = (),
    given: str | None = None,
    name: str = "run",
) -> RunResult:
    """Train as the recipe says, or go on where an earlier process left off.

    Args:
        recipe: what to train.
        run_dir: where; None makes a new `runs/<name>-<n>`. An existing unfinished run goes on.
        new: start over in a directory whose run is finished (or not): the old run is kept beside it as `<run>.old-<n>`.
        watchers: who else sees the run; its own directory always does.
        given: the recipe as the user wrote it, for `recipe.yaml`.
        name: the recipe's name.

    Raises:
        Stopped: a signal or `tuner stop` ended it; the state is saved.
        TunerError: any other expected fault.
    """
    from .processes import Processes
    from .recipe_file import scrub
    from .trackers import open_trackers, require_trackers

    require_trackers(recipe.log.to)
    processes = Processes()
    place = RunDir.create(Path("runs"), name) if run_dir is None else RunDir.open(Path(run_dir).expanduser())
    if new and place.is_run:
        place = set_aside(place)
    with ExitStack() as stack:
        if processes.main:
            stack.enter_context(place.lock())
        state, rejected = checkpoint.newest(place.checkpoints)
        refuse_finished(place, recipe, state)
        watcher = Watchers([])
        stack.enter_context(unmoved_by_refusal(place, processes))
        if processes.main:  # the others write nothing
            done = state.step if state else 0
            recorder = stack.enter_context(Recorder(place, step=done, total=recipe.train.steps))
            trackers = open_trackers(recipe.log.to, place.path, scrub(recipe), done)
            watcher = Watchers([recorder, *watchers, *trackers])
        stack.callback(watcher.close)
        for line in rejected:
            watcher.warn(line)
        return _Run(recipe, place, processes, watcher, state, given).go()


class _Run:
    """The phases of one process's share of a run, in order."""

    def __init__(
        self,
        recipe: Recipe,
        place: RunDir,
        processes: Processes,
        watcher: Watcher,
        state: checkpoint.State | None,
        given: str | None,
    ) -> None:
        self.recipe, self.place, self.processes, self.watcher = recipe, place, processes, watcher
        self.state, self.given = state, given
        self.began = time.monotonic()

    def go(self) -> RunResult:
        from .device import choose

        where = choose(self.recipe.train)
        where = type(where)(self.processes.start(where.device), where.precision)
        preparing = Preparing(
            self.recipe,
            self.place,
            self.processes,
            self.watcher,
            going_on=self.state is not None,
            given=self.given,
        )
        try:
            with stopping_at_once():
                ready = preparing.go(where)
            return self._train(ready)
        finally:
            self.processes.stop()

    def _train(self, ready: Ready) -> RunResult:
        from .boundaries import Actions, Boundary
        from .gauges import gauges
        from .loop import fit, prefetched
        from .training import Training

        recipe, processes, student, device = self.recipe, self.processes, ready.student, ready.where.device
        train = recipe.train
        units = train.batch * train.accumulate * processes.count
        order = ready.prepared.order(ready.draws, batch=train.batch, unit_count=units)
        self.steps = train.steps or (train.epochs or 1) * order.steps_per_epoch
        batches = ready.prepared.batches(order, recipe, ready.draws, processes)
        logged = recipe.task.logged(ready.prepared.roles)
        training = Training.of(ready.attachments, train, device, logged, scaled=ready.where.scaled)
        start = self._restore(training)
        self.selection = Selection.of(recipe, ready.prepared.held_out, ready.draws, self.place, self.watcher, training)
        self.selection.resume(start)
        saver = Saver(
            self.place.path,
            training,
            account(recipe, ready, self.place, order, self.selection, steps=self.steps, began=self.began),
            self.watcher,
            keep=recipe.save.keep,
        )
        with StopRequests() as requests:
            boundary = Boundary(
                recipe,
                training,
                Actions(
                    validate=lambda step: self._main(lambda: self._measure(student, training, step)),
                    sample=lambda step: self._sample(student, training, step),
                    save=lambda step: self._save(saver, step),
                    commands=self.place.control.take,
                    signal=lambda: requests.number,
                    files=batches.names,
                ),
                self.watcher,
                processes,
                self.steps,
                order.steps_per_epoch,
                gauges=[*gauges(recipe.log, student.model), *train.optimizer.gauges(training.optimizer)],
            )
            self._main(
                lambda: self._catch_up(
                    saver,
                    boundary,
                    start,
                    draw=lambda: self._draw(student, training, start),
                    measure=lambda: self._measure(student, training, start),
                )
            )
            self.watcher.phase("training", self.steps, start)
            boundary.begin()
            fit(
                student,
                recipe.task,
                training,
                prefetched(batches, range(start, self.steps), device),
                steps=self.steps,
                settings=train,
                draws=ready.draws,
                processes=processes,
                boundary=boundary,
            )
        return self._finish(saver, boundary, start)

    def _catch_up(
        self,
        saver: Saver,
        boundary: Boundary,
        start: int,
        *,
        draw: Callable[[], None],
        measure: Callable[[], None],
    ) -> None:
        """What belongs to step `start`: the first samples, or what a stopped or killed process left undone."""
        if start:
            saver.rotate(start)
        every = boundary.validate_every
        # The last step's value goes onto the card of its files.
        due = every is not None and (start % every == 0 or start == self.steps)
        if due and not self.selection.knows(start):
            measure()
        if start and missing_export(self.place.path, start):
            saver.export(start)
        every = boundary.sample_every
        due = every is not None and start % every == 0
        if due and not (start and samples.drawn(self.place.samples, start)):
            draw()
        self.selection.tell()

    def _finish(self, saver: Saver, boundary: Boundary, start: int) -> RunResult:
        if boundary.stopped_by is not None:
            number = boundary.stopped_by if isinstance(boundary.stopped_by, int) else None
            saved = (checkpoint.steps(self.place.checkpoints) or [start])[-1]
            raise Stopped(f"stopped; {self.place.path} holds the state of step {saved} of {self.steps}", number)
        adapter = self.place.adapter
        if self.processes.main:
            adapter = saver.finish(self.steps)
            self.selection.conclude()
            self.place.journal("done", step=self.steps)
        self.processes.wait()
        best = self.selection.best() if self.processes.main else None  # the others measured nothing
        return RunResult(self.place.path, adapter, self.steps, best)

    def _restore(self, training: Training) -> int:
        if self.state is None:
            return 0
        training.restore(self.state.tensors)
        self.watcher.say(f"going on from step {self.state.step}")
        if self.processes.main:
            self.place.journal("resumed", step=self.state.step)
        return self.state.step

    def _sample(self, student: Student, training: Training, step: int) -> None:
        self._main(lambda: self._draw(student, training, step))

    def _draw(self, student: Student, training: Training, step: int) -> None:
        if self.recipe.sample.prompts:
            self.watcher.phase("sampling", len(self.recipe.sample.prompts))
            folder = self.place.samples / str(step)
            self.watcher.samples(step, samples.draw(self.recipe, student, training, folder))
            self.watcher.phase("training", self.steps, step)

    def _measure(self, student: Student, training: Training, step: int) -> None:
        self.selection.measure(student, training, step)
        self.watcher.phase("training", self.steps, step)

    def _save(self, saver: Saver, step: int) -> None:
        def save() -> None:
            saver.save(step, {})
            self.place.journal("saved", step=step)
            self.selection.tell()
            self.watcher.phase("training", self.steps, step)

        self._main(save)

    def _main(self, action: Any) -> None:
        """Let the first process act while the others wait."""
        if self.processes.main:
            action()
        self.processes.wait()
