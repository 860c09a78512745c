"""Measuring a run on held-out pictures, and telling which of its checkpoints is the best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .best import LEVELS, Best, History

if TYPE_CHECKING:
    from .data.held_out import HeldOut
    from .draws import Draws
    from .recipe import Recipe
    from .rundir import RunDir
    from .student import Student
    from .training import Training
    from .validation import Validator
    from .watch import Watcher


@dataclass
class Selection:
    """The validation of one run; without held-out pictures every method does nothing."""

    place: RunDir
    watcher: Watcher
    validator: Validator | None = None
    history: History | None = None
    told: Best | None = None
    """What the watcher knows."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        held_out: HeldOut | None,
        draws: Draws,
        place: RunDir,
        watcher: Watcher,
        training: Training,
    ) -> Selection:
        if held_out is None:
            return cls(place, watcher)
        from .validation import Validator

        average = training.average
        device = training.guard.scale.device
        # As many examples in a forward pass as a training step has, which is known to fit.
        rows = min(LEVELS, recipe.train.batch * len(recipe.task.roles(recipe.sources)))
        validator = Validator(held_out, recipe.bound_objective.needs(), draws, device, rows)
        facts = validator.facts(weights=average.name if average else "raw")
        weights = average.words if average else "the weights"
        pictures = "picture" if facts["pictures"] == 1 else "pictures"
        watcher.say(f"validation: {weights} on {facts['pictures']} held-out {pictures}, at {LEVELS} noise levels each")
        return cls(place, watcher, validator, History(place.validation_file, facts))

    def resume(self, step: int) -> None:
        """Take up what was measured before. Raises: StorageError."""
        for note in self.history.resume(step) if self.history else ():
            self.watcher.warn(note)

    def knows(self, step: int) -> bool:
        return self.history is None or step in self.history.values

    def measure(self, student: Student, training: Training, step: int) -> None:
        """Measure, write down, tell. Raises: StorageError."""
        if self.validator is None or self.history is None:
            return
        self.watcher.phase("validating", len(self.validator.held_out.examples))
        value = self.validator.measure(student, training)
        self.history.add(step, value)
        self.watcher.metrics(step, value.metrics())
        if not math.isfinite(value.loss):
            self.watcher.warn(f"step {step}: the validation loss is not finite, so this step cannot be the best")

    def best(self, *about_to_save: int) -> Best | None:
        """Among the steps whose adapter files are there, and those that are being saved."""
        if self.history is None:
            return None
        folders = self.place.checkpoints.glob("*/adapter")
        saved = {int(folder.parent.name) for folder in folders if folder.parent.name.isdecimal()}
        return self.history.best(saved.union(about_to_save))

    def loss(self, step: int) -> float | None:
        """What was measured at `step`; None where nothing was, or no finite number."""
        value = self.history.values.get(step) if self.history else None
        return value.loss if value and math.isfinite(value.loss) else None

    def tell(self) -> None:
        """Tell the watcher where another step is the best now."""
        best = self.best()
        if best is not None and best != self.told:
            self.told = best
            self.watcher.best(best.step, best.validation_loss)

    def conclude(self) -> None:
        """Name the best checkpoint, at the end of the run."""
        best = self.best()
        if best is not None:
            folder = self.place.checkpoints / str(best.step) / "adapter"
            self.watcher.say(f"best: {best}; its files are in {folder}")
        elif self.history is not None:
            self.watcher.warn("no saved step has a finite validation loss, so none is named the best")
