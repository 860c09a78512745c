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

    known_as = ("constant_with_warmup", "none")
    needs_total = False

    def shape(self, done: float) -> float:
        return 1.0


class Linear(Schedule, name="linear"):
    """Falls in a straight line to 0."""

    def shape(self, done: float) -> float:
        return 1.0 - done


class Cosine(Schedule, name="cosine"):
    """Falls along half a cosine to 0 (Loshchilov & Hutter 2017, eq. 5, no restarts)."""

    known_as = ("cosine_annealing", "cosine_annealing_lr")

    def shape(self, done: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * done))


class CosineWithRestarts(Schedule, name="cosine_with_restarts"):
    """Falls along half a cosine several times, each from the peak (Loshchilov & Hutter 2017, eq. 5, equal periods)."""

    known_as = ("cosine_restarts", "cosine_annealing_warm_restarts", "cosine_with_hard_restarts")

    cycles: int = Field(default=3, ge=2, le=1000)
    """How many times it falls."""

    def shape(self, done: float) -> float:
        # A period that ends at k / cycles must not be missed by the last bit of the fraction.
        part = (done * self.cycles + 1e-9) % 1.0
        return 0.0 if done >= 1 else 0.5 * (1.0 + math.cos(math.pi * part))


class Polynomial(Schedule, name="polynomial"):
    """Falls as a power of what is left."""

    known_as = ("poly", "polynomial_decay")

    power: float = Field(default=2.0, gt=0, le=100)
    """Power of what is left of the run: 1 is linear, more falls early, less falls late."""
    end: float = Field(default=0.0, ge=0, lt=1)
    """Where it ends, as a share of the peak."""

    def shape(self, done: float) -> float:
        return self.end + (1.0 - self.end) * (1.0 - done) ** self.power


class REX(Schedule, name="rex"):
    """Falls slowly at first and fast at the end (Chen et al. 2021): above a straight line all the way to 0."""

    known_as = ("rex_annealing_warm_restarts", "reflected_exponential")

    def shape(self, done: float) -> float:
        return (1.0 - done) / (0.5 + 0.5 * (1.0 - done))
