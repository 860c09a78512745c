"""The learning rate as a function of the step: no state, so nothing to restore."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

from pydantic import Field

from ..parts import Choice


class Schedule(Choice):
    """Shape of the learning rate over the run."""

    needs_total: ClassVar[bool] = True
    """Whether the rate at a step depends on how long the run is."""

    warmup: int = Field(default=0, ge=0, le=1_000_000)
    """Steps over which the rate rises linearly from 0."""

    def factor(self, step: int, steps: int) -> float:
        """Multiple of the peak rate for the optimizer step number `step` (0 .. steps - 1).

        The warm-up takes (step + 1) / (warmup + 1), so that the first step already moves.
        """
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        span = max(1, steps - self.warmup)
        return self.shape(min(1.0, (step - self.warmup) / span))

    @abstractmethod
    def shape(self, done: float) -> float:
        """Multiple of the peak rate at the fraction `done` (0 .. 1) of what follows the warm-up."""


class Constant(Schedule, name="constant"):
    """The same rate throughout."""

    needs_total = False

    def shape(self, done: float) -> float:
        return 1.0


class Linear(Schedule, name="linear"):
    """Falls in a straight line to 0."""

    def shape(self, done: float) -> float:
        return 1.0 - done


class Cosine(Schedule, name="cosine"):
    """Falls along half a cosine to 0 (Loshchilov & Hutter 2017, eq. 5, no restarts)."""

    def shape(self, done: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * done))
