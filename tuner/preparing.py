"""From a recipe to what a loop needs: pictures found and encoded, a model with its adapters on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import samples
from .errors import UsageError
from .rundir import differences, flatten
from .watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .adapters import Attachment
    from .backbones import DiffusionModel
    from .data.cache import Cache
    from .data.prepared import Prepared
    from .data.scan import Scan
    from .device import Place
    from .draws import Draws
    from .objectives import BoundObjective
    from .processes import Processes
    from .recipe import Recipe
    from .rundir import RunDir
    from .student import Student


@dataclass(frozen=True, slots=True)
class Ready:
    """All that a run trains with."""

    student: Student
    prepared: Prepared
    draws: Draws
    where: Place
    base_identity: str
    """Of the denoiser's weights."""

    @property
    def attachments(self) -> Sequence[Attachment]:
        return self.student.attachments


class Preparing:
    """Everything before the first step, in order.

    Args:
        recipe: what to train.
        place: the run's directory; its identity is written here.
        processes: who fills the cache, and who reads it.
        watcher: told what is left out and why.
        going_on: whether a state of this run is there.
        given: the recipe as the user wrote it.
    """

    def __init__(
        self,
        recipe: Recipe,
        place: RunDir,
        processes: Processes,
        watcher: Watcher,
        *,
        going_on: bool,
        given: str | None,
    ) -> None:
        self.recipe, self.place, self.processes, self.watcher = recipe, place, processes, watcher
        self.going_on, self.given = going_on, given

    def go(self, where: Place) -> Ready:
        """Prepare for a device; the encoders have left it when this returns.

        Raises: DataError, RecipeError, UsageError where the run cannot be what the recipe says.
        """
        import torch

        from .data.cache import Cache
        from .data.encode_text import tell_lengths
        from .draws import Draws
        from .identity import identity
        from .student import Student

        recipe = self.recipe
        self.watcher.phase("starting")
        found = self._found(where)
        draws = Draws(recipe.train.seed)
        model = recipe.backbone.load(device=torch.device("cpu"), dtype=where.weights, read=())
        for note in model.notes:
            self.watcher.say(note)
        for warning in model.warnings:
            self.watcher.warn(warning)
        objective = recipe.bound_objective.bind(model.scheduler, where.device)
        for note in recipe.bound_objective.notes(model.scheduler):
            self.watcher.say(note)
        self.watcher.phase("caching")
        prepared = self._encoded(found, model, objective, Cache(), draws, where)
        base = {name: model.identity(name) for name in model.components}
        self._same_run(identity(recipe, prepared.examples, base, precision=where.precision))
        self._fetch(model, where)
        student = Student(model, self._attached(model, draws), objective, where.autocast)
        tell_lengths(model, prepared.captions, self.watcher)
        return Ready(student, prepared, draws, where, base[model.denoiser_name])

    def _found(self, where: Place) -> Scan:
        """The pictures, of which each that is left out was named, within a plan that fits."""
        from . import planning
        from .data import prepared as data
        from .identifier import advice

        found = data.find(self.recipe, self.watcher)
        for refused in found.refused:
            self.watcher.warn(f"{refused.name}: left out: {refused.reason}")
        for note in found.notes:
            self.watcher.say(note)
        machine = planning.Machine(where.device.type, where.name, where.memory, where.weights.itemsize)
        plan = planning.plan(
            self.recipe, found, run_dir=self.place.path, machine=machine, processes=self.processes.count
        )
        planning.require(plan)
        for line in (*advice(self.recipe), *plan.advice):
            self.watcher.warn(line)
        if plan.validation and plan.validation.advice:
            self.watcher.warn(plan.validation.advice)
        return found

    def _encoded(
        self, found: Scan, model: DiffusionModel, objective: BoundObjective, cache: Cache, draws: Draws, where: Place
    ) -> Prepared:
        """Latents and texts in the cache, which the first process fills and the others read."""
        from .data import prepared as data

        recipe, main = self.recipe, self.processes.main
        if main:
            data.add_class_pictures(recipe, found, model, objective, cache, self.watcher, device=where.device)
        else:
            self.processes.wait()
            data.add_class_pictures(recipe, found, model, objective, cache, Watcher())
        prepared = data.encode(
            recipe,
            found,
            model,
            draws,
            cache,
            self.watcher,
            learns_text=self._learns_text,
            device=where.device,
            meanwhile=(lambda: self._read_ahead(model, where)) if main else None,
        )
        if main:
            self.processes.wait()
        return prepared

    @property
    def _learns_text(self) -> bool:
        return any(adapter.trains_text() for adapter in self.recipe.adapters)

    def _read_ahead(self, model: DiffusionModel, where: Place) -> None:
        """Read what will be drawn or tried while training, so that the text encoders need not stay."""
        import torch

        from .formats.prediction import PROMPTS
        from .sampling import read_ahead

        if self.recipe.sample.every is not None:
            read_ahead(model, samples.shots(self.recipe), where.device)
        with torch.no_grad():
            model.read_ahead(PROMPTS, where.device)

    def _fetch(self, model: DiffusionModel, where: Place) -> None:
        """Onto the device what trains or is asked in every step."""
        import torch

        if self._learns_text:
            model.fetch(model.text_encoders, where.device)
        if self.recipe.data.cache == "off":
            model.fetch(["vae"], where.device)
        elif self.recipe.sample.every is not None:
            model.fetch(["vae"], torch.device("cpu"))  # where it waits for the samples
        model.fetch([model.denoiser_name], where.device)

    def _attached(self, model: DiffusionModel, draws: Draws) -> list[Attachment]:
        recipe = self.recipe
        if recipe.train.gradient_checkpointing:
            model.checkpoint_gradients()
        keep = recipe.task.needs_teacher(recipe.sources)
        attachments = [adapter.attach(model, keep_base=keep, draws=draws) for adapter in recipe.adapters]
        for attachment in attachments:
            for line in attachment.summary():
                self.watcher.say(line)
            attachment.train(on=True)
        return attachments

    def _same_run(self, now: Mapping[str, Any]) -> None:
        """Refuse to go on with another recipe, other pictures or another base; write down what is new.

        Raises: UsageError with every difference.
        """
        from .identity import environment
        from .resolved import resolved_yaml

        before = self.place.identity() or {}
        lines = differences(flatten(before.get("run", {})), flatten(now)) if self.going_on and before else []
        if lines:
            shown = "\n".join(f"  {line}" for line in lines[:20])
            more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
            length = any(line.startswith(("recipe.train.steps", "recipe.train.epochs")) for line in lines)
            if length and (reason := self.recipe.length_matters):
                more += f"\n  (its length is part of what it is: {reason})"
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
