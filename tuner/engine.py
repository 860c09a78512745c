"""From a recipe to a verified adapter: scan, cache, fit, export. Every door of tuner leads through here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import atomic, checkpoint, samples
from .errors import Stopped, UsageError
from .rundir import Recorder, RunDir, differences, flatten
from .saving import Saver, missing_export, today
from .selection import Selection
from .signals import StopRequests, stopping_at_once
from .watch import Watcher, Watchers

if TYPE_CHECKING:
    from .adapters import Attachment
    from .backbones import DiffusionModel
    from .best import Best
    from .boundaries import Boundary
    from .data.prepared import Prepared
    from .device import Place
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
        place = _set_aside(place)
    with ExitStack() as stack:
        if processes.main:
            stack.enter_context(place.lock())
        state, rejected = checkpoint.newest(place.checkpoints)
        _refuse_finished(place, recipe, state)
        watcher = Watchers([])
        stack.enter_context(_unmoved_by_refusal(place, processes))
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
        self.where = type(where)(self.processes.start(where.device), where.precision)
        try:
            with stopping_at_once():
                student, attachments, prepared = self._prepare(self.where)
            return self._train(student, attachments, prepared)
        finally:
            self.processes.stop()

    def _prepare(self, where: Place) -> tuple[Student, Sequence[Attachment], Prepared]:
        """Everything before the first step; the encoders have left the device when this returns."""
        import torch

        from . import planning
        from .data import prepared as data
        from .data.cache import Cache
        from .draws import Draws
        from .identity import identity
        from .student import Student

        recipe, watcher = self.recipe, self.watcher
        watcher.phase("starting")
        found = data.find(recipe, watcher)
        for refused in found.refused:
            watcher.warn(f"{refused.name}: left out: {refused.reason}")
        for note in found.notes:
            watcher.say(note)
        machine = planning.Machine(where.device.type, where.name, where.memory, where.weights.itemsize)
        plan = planning.plan(recipe, found, run_dir=self.place.path, machine=machine, processes=self.processes.count)
        planning.require(plan)
        if plan.validation and plan.validation.advice:
            watcher.warn(plan.validation.advice)
        self.draws = Draws(recipe.train.seed)
        model = recipe.backbone.load(device=torch.device("cpu"), dtype=where.weights, read=())
        for note in model.notes:
            watcher.say(note)
        for warning in model.warnings:
            watcher.warn(warning)
        objective = recipe.bound_objective.bind(model.scheduler, where.device)
        cache = Cache()
        watcher.phase("caching")
        if self.processes.main:
            data.add_class_pictures(recipe, found, model, objective, cache, watcher, device=where.device)
        learns_text = any(adapter.trains_text() for adapter in recipe.adapters)
        if not self.processes.main:
            self.processes.wait()  # the first process fills the cache, the others read it
            data.add_class_pictures(recipe, found, model, objective, cache, Watcher())
        ready = data.encode(
            recipe,
            found,
            model,
            self.draws,
            cache,
            watcher,
            learns_text=learns_text,
            device=where.device,
            meanwhile=(lambda: self._read_ahead(model)) if self.processes.main else None,
        )
        if self.processes.main:
            self.processes.wait()
        base = {name: model.identity(name) for name in model.components}
        self.base_identity = base[model.denoiser_name]
        self._same_run(identity(recipe, ready.examples, base, precision=where.precision))
        if learns_text:
            model.fetch(model.text_encoders, where.device)
        if recipe.data.cache == "off":
            model.fetch(["vae"], where.device)
        elif recipe.sample.every is not None:
            model.fetch(["vae"], torch.device("cpu"))  # where it waits for the samples
        model.fetch([model.denoiser_name], where.device)
        attachments = self._attach(model)
        return Student(model, attachments, objective, where.autocast), attachments, ready

    def _read_ahead(self, model: DiffusionModel) -> None:
        """Read what will be drawn or tried while training, so that the text encoders need not stay."""
        import torch

        from .formats.verify import PROMPTS
        from .sampling import read_ahead

        if self.recipe.sample.every is not None:
            read_ahead(model, samples.shots(self.recipe), self.where.device)
        with torch.no_grad():
            model.read_ahead(PROMPTS, self.where.device)

    def _attach(self, model: Any) -> list[Attachment]:
        recipe = self.recipe
        if recipe.train.gradient_checkpointing:
            model.checkpoint_gradients()
        keep = recipe.task.needs_teacher(recipe.sources)
        attachments = [adapter.attach(model, keep_base=keep, draws=self.draws) for adapter in recipe.adapters]
        for attachment in attachments:
            for line in attachment.summary():
                self.watcher.say(line)
            attachment.train(on=True)
        return attachments

    def _train(self, student: Student, attachments: Sequence[Attachment], prepared: Prepared) -> RunResult:
        from .boundaries import Actions, Boundary
        from .loop import fit, prefetched
        from .training import Training

        recipe, processes = self.recipe, self.processes
        train = recipe.train
        units = train.batch * train.accumulate * processes.count
        order = prepared.order(self.draws, batch=train.batch, unit_count=units)
        self.steps = train.steps or (train.epochs or 1) * order.steps_per_epoch
        batches = prepared.batches(order, recipe, self.draws, processes)
        logged = recipe.task.logged(prepared.roles)
        training = Training.of(attachments, train, self.where.device, logged, scaled=self.where.scaled)
        start = self._restore(training)
        self.selection = Selection.of(recipe, prepared.held_out, self.draws, self.place, self.watcher, training)
        self.selection.resume(start)
        saver = Saver(
            self.place.path,
            training,
            self._about(order, prepared, student.objective.prediction),
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
                prefetched(batches, range(start, self.steps), self.where.device),
                steps=self.steps,
                settings=train,
                draws=self.draws,
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
            checkpoint.rotate(self.place.checkpoints, start, keep=self.recipe.save.keep)
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

    def _same_run(self, now: Mapping[str, Any]) -> None:
        """Refuse to go on with another recipe, other pictures or another base; write down what is new.

        Raises: UsageError with every difference.
        """
        from .identity import environment
        from .resolved import resolved_yaml

        before = self.place.identity() or {}
        lines = differences(flatten(before.get("run", {})), flatten(now)) if self.state and before else []
        if lines:
            shown = "\n".join(f"  {line}" for line in lines[:20])
            more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
            raise UsageError(
                f"{self.place.path} was started differently:\n{shown}{more}",
                "undo these changes to go on, or start over with --new (or another --run-dir)",
            )
        around = environment()
        for line in differences(flatten(before.get("environment", around)), flatten(around)):
            self.watcher.warn(f"{line} since the run began: it goes on, but its last bits may differ")
        if self.processes.main:
            resolved = resolved_yaml(self.recipe)
            self.place.write_identity({"run": now, "environment": before.get("environment", around)})
            self.place.write_recipe(self.given or resolved, resolved)

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

    def _about(self, order: Any, prepared: Prepared, prediction: str) -> Any:
        from .formats.about import about_run, count_tags
        from .resolved import scrubbed_yaml

        recipe = self.recipe
        first = next(iter(prepared.examples))
        sizes = sorted(prepared.sizes[first].values())
        recipe_text = scrubbed_yaml(recipe)

        def about(step: int) -> Any:
            return about_run(
                self.place.path.name,
                recipe,
                facts={
                    "step": step,
                    "max_steps": self.steps,
                    "epoch": round(step / order.steps_per_epoch, 3),
                    "images": len(prepared.examples[first]),
                    "prior_images": sum(len(m) for role, m in prepared.examples.items() if role != first),
                    "buckets": {f"{w}x{h}": sizes.count((w, h)) for w, h in sorted(set(sizes))},
                    "tags": {
                        role: count_tags(c for e in m for c in e.captions) for role, m in prepared.examples.items()
                    },
                    "precision": self.where.precision,
                    "validation_loss": self.selection.loss(step),
                    "best": str(best) if (best := self.selection.best(step)) else None,
                    "seconds": round(time.monotonic() - self.began, 1),
                },
                recipe_text=recipe_text,
                base_identity=self.base_identity,
                prediction=prediction,
                weights="ema" if recipe.train.ema else "raw",
                made=today(),
                preview=samples.latest(self.place.samples, recipe.sample.prompts),
            )

        return about


def _refuse_finished(place: RunDir, recipe: Recipe, state: checkpoint.State | None) -> None:
    """A finished run goes on only where it was made longer.

    Raises: UsageError.
    """
    if state is None or not place.finished:
        return
    train = recipe.train
    # How many steps the epochs are, only the data tells.
    longer = train.epochs is not None or (train.steps is not None and train.steps > state.step)
    if train.schedule.needs_total or not longer:
        raise UsageError(
            f"{place.path} is finished, at step {state.step}",
            "raise train.steps to train longer (where the schedule does not depend on it), or start over with --new",
        )


@contextmanager
def _unmoved_by_refusal(place: RunDir, processes: Processes) -> Iterator[None]:
    """A start that is refused leaves a run in the state that it was in: stopped, done or interrupted."""
    before = place.status_file.read_bytes() if place.status_file.is_file() else None
    try:
        yield
    except UsageError:
        if before is not None and processes.main:
            atomic.write(place.status_file, before)
        raise


def _set_aside(place: RunDir) -> RunDir:
    """Move a run out of the way, under its lock, and give its place to a new one."""
    number = 1
    while (aside := place.path.with_name(f"{place.path.name}.old-{number}")).exists():
        number += 1
    with place.lock():
        pass  # nobody else is in there
    place.path.rename(aside)
    return RunDir.open(place.path)
