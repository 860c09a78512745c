"""How long a run is: units, steps, epochs, and how often each picture is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..sections import Train


@dataclass(frozen=True, slots=True)
class Length:
    """The arithmetic of `train.steps`, `train.epochs`, `train.batch` and `train.accumulate`."""

    units: int
    """Units in one epoch: the first role's pictures, each as often as its `repeats`."""
    units_a_step: int
    """batch x accumulate x processes; the last step of an epoch may have fewer."""
    steps_per_epoch: int
    steps: int
    """Optimizer steps of the whole run."""

    @property
    def epochs(self) -> float:
        return self.steps / self.steps_per_epoch

    @property
    def units_seen(self) -> int:
        """Units over the whole run; every epoch has each unit once."""
        whole, rest = divmod(self.steps, self.steps_per_epoch)
        return whole * self.units + min(rest * self.units_a_step, self.units)


def length(train: Train, units: int, processes: int = 1) -> Length:
    """Steps of a run whose epoch has `units` units (at least 1)."""
    units_a_step = train.batch * train.accumulate * processes
    steps_per_epoch = -(-units // units_a_step)
    steps = train.steps if train.steps is not None else (train.epochs or 1) * steps_per_epoch
    return Length(units, units_a_step, steps_per_epoch, steps)


@dataclass(frozen=True, slots=True)
class Exposure:
    """How much is seen of one role."""

    role: str
    pictures: int
    """Pictures that are there or will be generated."""
    units: int
    """Pictures, each as often as its `repeats`."""
    visits: float
    """How often a picture with `repeats: 1` is seen in the run, on average."""
    mirrors: str | None = None
    """The role whose pictures this one takes."""


def exposures(length: Length, pictures: Mapping[str, tuple[int, int]], mirrors: Mapping[str, str]) -> list[Exposure]:
    """Exposure of each role.

    Args:
        length: of the run.
        pictures: (pictures, units) of each role that has its own.
        mirrors: roles without pictures of their own, and whose they take.
    """
    own = {
        role: Exposure(role, count, units, length.units_seen / units if units else 0.0)
        for role, (count, units) in pictures.items()
    }
    taken = [
        Exposure(role, own[home].pictures, own[home].units, own[home].visits, home) for role, home in mirrors.items()
    ]
    return [*own.values(), *taken]
