"""What of a recipe would fit the usual cards, and what to change for it; asked where a model itself trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..optim.optimizers import Optimizer, Rate

if TYPE_CHECKING:
    from ..recipe import Recipe

SIZES_GB = (11, 16, 24, 80)
"""Memory of the cards that people have, as it is sold: in units of 2**30 bytes."""
SPARED = 0.97
"""Share of a card's memory that is free for a process: the driver, and a screen, take the rest."""


@dataclass(frozen=True, slots=True)
class Card:
    """What fits one size of card."""

    gigabytes: int
    changes: Mapping[str, Any] | None
    """Keys of the recipe to set, the fewest of those that are known to help; None where they do not help enough."""
    bytes: int
    """Memory at the peak with these changes, or with all that are known, an estimate."""

    def __str__(self) -> str:
        from .disk import size

        needs = f"about {size(self.bytes)}"
        if self.changes is None:
            return f"{self.gigabytes} GB: does not fit, {needs} with all that saves memory; train a LoRA instead"
        if not self.changes:
            return f"{self.gigabytes} GB: as it is, {needs}"
        return f"{self.gigabytes} GB: {needs} with {' '.join(f'{key}={written(v)}' for key, v in self.changes.items())}"


def written(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def ladder(recipe: Recipe) -> list[dict[str, Any]]:
    """Ways to save memory, each with those before it, the ones that cost least first."""
    at = next(i for i, adapter in enumerate(recipe.adapters) if adapter.saves_whole_models)
    train, weights = recipe.train, f"adapters.{at}.weights"
    steps: list[dict[str, Any]] = [
        {"train.gradient_checkpointing": True},
        {"train.batch": 1, "train.accumulate": train.batch * train.accumulate},
        {"train.optimizer": "adamw8bit"},
        {weights: "bf16"},
        {"train.optimizer": "adafactor"},
        {"train.optimizer_in_backward": True, "train.accumulate": 1, "train.max_grad_norm": None},
        {f"adapters.{at}.where": "attention"},
    ]
    own, unfit = train.optimizer, set[str]()
    if own.bytes_a_parameter < 1 or own.rate_of_adamw != Rate():
        unfit.add("train.optimizer")  # it remembers next to nothing already, or its learning rate means something else
    if not own.updates_in_backward:
        unfit.add("train.optimizer_in_backward")
    steps = [step for step in steps if not unfit.intersection(step)]
    ways, sofar = [{}], {}
    for step in steps:
        sofar = sofar | step
        ways.append({key: value for key, value in sofar.items() if _given(recipe, key) != value})
    return [way for number, way in enumerate(ways) if way not in ways[:number]]


def cards(recipe: Recipe, measure: Callable[[Recipe], int]) -> Sequence[Card]:
    """What fits each size of card; nothing for recipes that leave the base as it is.

    Args:
        recipe: as given.
        measure: bytes at the peak of a recipe, on a GPU in 16 bit.
    """
    if not any(adapter.saves_whole_models for adapter in recipe.adapters):
        return ()
    ways = [(way, measure(changed(recipe, way))) for way in ladder(recipe)]
    found = []
    for gigabytes in SIZES_GB:
        room = gigabytes * 2**30 * SPARED
        fitting = next(((way, needs) for way, needs in ways if needs <= room), None)
        found.append(Card(gigabytes, *fitting) if fitting else Card(gigabytes, None, min(n for _, n in ways)))
    return found


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some keys set; for counting alone, since nothing is validated."""
    train = {key.partition(".")[2]: value for key, value in changes.items() if key.startswith("train.")}
    if "optimizer" in train:
        train["optimizer"] = Optimizer.read(train["optimizer"])
    adapters = list(recipe.adapters)
    for key, value in changes.items():
        if key.startswith("adapters."):
            _, index, name = key.split(".")
            adapters[int(index)] = adapters[int(index)].model_copy(update={name: value})
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=train), "adapters": tuple(adapters)})


def _given(recipe: Recipe, key: str) -> Any:
    """What the recipe says of a key of `ladder`."""
    section, *rest = key.split(".")
    if section == "adapters":
        return recipe.adapters[int(rest[0])].model_dump()[rest[1]]
    value = getattr(recipe.train, rest[0])
    return value.key if rest[0] == "optimizer" else value
