"""What a run finds in its directory: whether it may go on there, and a place for a new one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import atomic
from .errors import UsageError
from .rundir import RunDir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .checkpoint import State
    from .processes import Processes
    from .recipe import Recipe


def refuse_finished(place: RunDir, recipe: Recipe, state: State | None) -> None:
    """A finished run goes on only where it was made longer.

    Raises: UsageError.
    """
    if state is None or not place.finished:
        return
    train = recipe.train
    # How many steps the epochs are, only the data tells.
    longer = train.epochs is not None or (train.steps is not None and train.steps > state.step)
    if reason := recipe.length_matters:
        raise UsageError(
            f"{place.path} is finished, at step {state.step}, and cannot be made longer: {reason}",
            "start over with --new (or another --run-dir)",
        )
    if not longer:
        raise UsageError(
            f"{place.path} is finished, at step {state.step}",
            "raise train.steps to train longer, or start over with --new",
        )


@contextmanager
def unmoved_by_refusal(place: RunDir, processes: Processes) -> Iterator[None]:
    """A start that is refused leaves a run in the state that it was in: stopped, done or interrupted."""
    before = place.status_file.read_bytes() if place.status_file.is_file() else None
    try:
        yield
    except UsageError:
        if before is not None and processes.main:
            atomic.write(place.status_file, before)
        raise


def set_aside(place: RunDir) -> RunDir:
    """Move a run out of the way, under its lock, and give its place to a new one."""
    number = 1
    while (aside := place.path.with_name(f"{place.path.name}.old-{number}")).exists():
        number += 1
    with place.lock():
        pass  # nobody else is in there
    place.path.rename(aside)
    return RunDir.open(place.path)
