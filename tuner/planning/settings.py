"""Settings that would do nothing in a run of this length, or less than they seem to ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..sections import Train
    from .length import Length

STALE = 0.1
"""Share of the weights that a run began with, from which on it is worth a word that files still hold them."""


def idle(train: Train, length: Length) -> list[str]:
    """What would do nothing, with what to change."""
    if train.ema is not None and train.ema.every > length.steps:
        return [
            f"train.ema.every: the average is taken every {train.ema.every:,} steps and the run has {length.steps:,}, "
            "so its files would hold what it began with; lower it, or leave out train.ema"
        ]
    return []


def advice(train: Train, length: Length) -> list[str]:
    """What would do less than it seems to, with what to change."""
    lines = []
    if length.units_a_step > length.units:
        lines.append(
            f"a step asks for {length.units_a_step:,} units (train.batch x train.accumulate) and an epoch has "
            f"{length.units:,}, which is all that a step then has; raise `repeats` in the data, or lower "
            "train.accumulate"
        )
    warmup = train.schedule.warmup
    if warmup >= length.steps:
        reached = train.lr * train.schedule.factor(length.steps - 1, length.steps)
        lines.append(
            f"train.schedule.warmup: {warmup:,} steps of a run of {length.steps:,}, so the rate gets no further than "
            f"{reached:.3g}, not to {train.lr:.3g}"
        )
    if train.ema is not None:
        updates = length.steps // train.ema.every
        stale = train.ema.decay**updates
        if updates and stale > STALE:
            lines.append(
                f"train.ema: after {updates:,} updates its average still holds {stale:.0%} of what the run began with, "
                "and files and samples hold the average; lower train.ema.decay or train.ema.every"
            )
    return lines
