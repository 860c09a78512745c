"""What measuring a run on held-out pictures comes to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..best import LEVELS

if TYPE_CHECKING:
    from ..recipe import Recipe
    from .length import Length

PASS = 1 / 3
"""Time of a prediction against that of training on an example: a backward pass takes about twice its forward one."""


@dataclass(frozen=True, slots=True)
class ValidationCost:
    """Pictures and time that go into `validation`."""

    pictures: int
    """Held out."""
    measurements: int
    """How often they are measured: before the first step, at each interval, after the last step."""
    predictions: int
    """Forward passes in all, one a picture and level."""
    steps: float
    """Training steps that take about as long."""
    advice: str = ""
    """What is wrong with the interval; empty where nothing is."""


def validation_cost(recipe: Recipe, pictures: int, examples_a_step: int, total: Length) -> ValidationCost | None:
    """None for a recipe without validation.

    Args:
        pictures: that are held out.
        examples_a_step: that a training step learns from, of all roles.
    """
    if recipe.validation is None:
        return None
    every, saved = (_steps(interval, total) for interval in (recipe.validation.every, recipe.save.every))
    assert every is not None
    measurements = 1 + -(-total.steps // every)
    predictions = pictures * LEVELS * measurements
    meet = saved is not None and math.lcm(every, saved) < total.steps
    advice = "" if meet else (
        "validation.every and save.every meet at no step but the last, so only the last can be named the best; "
        "make one a multiple of the other"
    )  # fmt: skip
    return ValidationCost(pictures, measurements, predictions, predictions * PASS / examples_a_step, advice)


def _steps(every: object, total: Length) -> int | None:
    """An interval in steps."""
    if every is None or isinstance(every, int):
        return every
    return every.epochs * total.steps_per_epoch  # type: ignore[attr-defined]
