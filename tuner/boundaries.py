"""What happens between two steps, in this order: log, validate, sample, save, stop.

The only place that waits for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import NumbersError
from .sections import Epochs

if TYPE_CHECKING:
    from torch import Tensor

    from .gauges import Gauge
    from .processes import Processes
    from .recipe import Recipe
    from .training import Training
    from .watch import Watcher

CONTROL_EVERY_S = 0.25
"""How often the control folder is looked at."""


@dataclass(frozen=True)
class Actions:
    """What a boundary can do, given the number of steps done."""

    validate: Callable[[int], None]
    sample: Callable[[int], None]
    save: Callable[[int], None]
    commands: Callable[[], list[str]]
    """Commands that arrived since the last call."""
    signal: Callable[[], int | None]
    """The signal that asks to stop, if one came."""
    files: Callable[[int], list[str]]
    """Files that a step looked at."""


@dataclass
class Boundary:
    """Called after each step; True ends the run."""

    recipe: Recipe
    training: Training
    actions: Actions
    watcher: Watcher
    processes: Processes
    steps: int
    steps_per_epoch: int
    gauges: Sequence[Gauge] = ()
    """What is measured in the step that ends a log interval."""
    stopped_by: str | int | None = None
    """The command or signal that ended the run before its last step."""
    _skipped: float = 0.0
    _looked: float = field(default_factory=time.monotonic)
    _resumed: float = field(default_factory=time.monotonic)
    _worked: tuple[float, int] = (0.0, 0)
    """Seconds and steps since the last log line, without what a boundary itself takes."""

    def __post_init__(self) -> None:
        self._skipped = float(self.training.guard.skipped)
        validation = self.recipe.validation
        self.validate_every = self._steps(validation.every) if validation else None
        self.sample_every = self._steps(self.recipe.sample.every)
        self.save_every = self._steps(self.recipe.save.every)

    def begin(self) -> None:
        """The first step starts now."""
        for gauge in self.gauges:
            gauge.begin()
        self._resumed = time.monotonic()

    def __call__(self, done: int) -> bool:
        now = time.monotonic()
        self._worked = (self._worked[0] + now - self._resumed, self._worked[1] + 1)
        commands = self._commands(now)
        number = self.processes.agree(self.actions.signal() or 0)
        last = done >= self.steps
        stopping = number or ("stop" in commands) or ("stop-now" in commands)
        measured = {gauge.name: found for gauge in self.gauges if (found := gauge.end()) is not None}
        interval_ends = done % self.recipe.log.every == 0
        if interval_ends or last or stopping:
            self._report(done, measured, interval_ends=interval_ends)
        self.watcher.progress(done)
        at_once = "stop-now" in commands
        if self._due(self.validate_every, done, last=last) and (last or not stopping):
            self.actions.validate(done)
        if (self._due(self.sample_every, done, last=last) and not stopping) or "sample" in commands:
            self.actions.sample(done)
        if not at_once and (self._due(self.save_every, done, last=last) or last or stopping or "save" in commands):
            self.actions.save(done)
        if stopping and not last:
            self.stopped_by = number or ("stop-now" if at_once else "stop")
        if (done + 1) % self.recipe.log.every == 0 or done + 1 == self.steps:
            for gauge in self.gauges:
                gauge.begin()
        self._resumed = time.monotonic()
        return self.stopped_by is not None

    def _steps(self, every: int | Epochs | None) -> int | None:
        return every.epochs * self.steps_per_epoch if isinstance(every, Epochs) else every

    @staticmethod
    def _due(every: int | None, done: int, *, last: bool) -> bool:
        return every is not None and (done % every == 0 or last)

    def _commands(self, now: float) -> list[str]:
        code = 0
        if self.processes.main and now - self._looked >= CONTROL_EVERY_S:
            self._looked = now
            code = sum({_BITS[command] for command in self.actions.commands()})
        code = self.processes.agree(code)
        return [command for command, bit in _BITS.items() if code & bit]

    def _report(self, done: int, measured: Mapping[str, Tensor], *, interval_ends: bool) -> None:
        """Write the interval's numbers down; stop where too many steps in a row were bad.

        A run that stops within an interval leaves it open, so that going on gives the means it would have had.

        Raises: NumbersError naming the files of the latest bad step.
        """
        import torch

        guard = self.training.guard
        means = self.training.tally.read(interval_ends=interval_ends)
        skipped, worst, last_bad, scale = torch.stack(
            [t.float() for t in (guard.skipped, guard.worst, guard.last_bad, guard.scale)]
        ).tolist()
        limit = self.recipe.train.max_bad_steps
        if worst >= limit:
            names = ", ".join(self.actions.files(int(last_bad))[:8])
            where = f"{int(worst)} steps in a row, up to step {int(last_bad) + 1} ({names})"
            raise NumbersError(
                f"the loss or gradient was not finite in {where}",
                "no weight was moved by them; look at these files, lower train.lr, or take precision bf16 or fp32",
            )
        if worst and skipped > self._skipped:
            names = ", ".join(self.actions.files(int(last_bad))[:8])
            self.watcher.warn(f"step {int(last_bad) + 1} was not finite and moved nothing ({names})")
        if interval_ends:
            guard.acknowledge()
        seconds, count = self._worked
        self._worked = (0.0, 0)
        values: dict[str, Any] = dict(means) | {name: found.item() for name, found in measured.items()}
        for group, described in zip(self.training.groups, self.training.optimizer.param_groups, strict=True):
            values["lr" if group.lr is None and group.ratio == 1 else f"lr_{group.name}"] = described["lr"]
        if seconds > 0 and count:
            values["it_s"] = count / seconds
        values["epoch"] = done / self.steps_per_epoch
        if skipped:
            values["skipped_steps"] = skipped
        if guard.scale.is_cuda:
            values["memory_mb"] = torch.cuda.max_memory_allocated(guard.scale.device) / 2**20
        if guard.scaled:
            values["loss_scale"] = scale
        self._skipped = skipped
        self.watcher.metrics(done, values)


_BITS = {"stop": 1, "stop-now": 2, "save": 4, "sample": 8}
