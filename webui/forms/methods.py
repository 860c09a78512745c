"""What can be trained, as one list in plain words: the recipes that ship, and which words of theirs are yours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tuner.adapters.textual_inversion import TextualInversion
from tuner.commands.arguments import MAIN_RECIPE
from tuner.data.sources import PairSource
from tuner.errors import UsageError
from tuner.recipe_file import open_recipe
from tuner.shipped import about, shipped
from tuner.wording import quoted

if TYPE_CHECKING:
    from pathlib import Path

    from tuner.recipe import Recipe

RARE = "sks"
"""What the shipped recipes call the word that is yours to choose."""
_CLASS = re.compile(r"\ban? (?:photo|picture) of an? (?P<word>\w+)$")


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model, as the page speaks of it."""

    title: str
    download: str
    """What comes down the first time, in words."""
    gated: bool = False
    """Whether its licence is accepted on its page first."""


BASES: Mapping[str, Base] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Base("Stable Diffusion 1.5", "about 4 GB"),
    "stabilityai/stable-diffusion-3.5-medium": Base("Stable Diffusion 3.5 medium", "about 16 GB", gated=True),
    "stabilityai/stable-diffusion-3.5-large": Base("Stable Diffusion 3.5 large", "about 28 GB", gated=True),
    "stabilityai/stable-diffusion-3.5-large-turbo": Base("Stable Diffusion 3.5 large turbo", "about 28 GB", gated=True),
    "stabilityai/stable-diffusion-3-medium-diffusers": Base("Stable Diffusion 3 medium", "about 16 GB", gated=True),
}
"""Bases by Hub id, with what people trip over; of any other nothing is claimed."""
TOYBOX = "toybox"
"""What a recipe calls the practice model."""
PRACTICE = "practice model (toybox, no download)"
"""What stands in for a base to try things out."""


@dataclass(frozen=True, slots=True)
class Method:
    """A recipe that ships, as a choice."""

    key: str
    """The recipe's name."""
    title: str
    model: str
    """The recipe's base."""
    role: str
    """The key of the data section that the pictures go to."""
    trigger: str
    """Its word for what is learned; '' where captions say it all."""
    subject: str
    """The class that its example is of; '' where it has none."""
    token: bool
    """Whether the word is a new one in angle brackets."""
    prior: bool
    """Whether the class is kept by prior preservation."""
    pairs: bool
    """Whether it takes pairs of pictures."""

    @property
    def base(self) -> str:
        """The base's name for people."""
        known = BASES.get(self.model)
        return known.title if known else self.model

    @property
    def file(self) -> Path:
        return shipped()[self.key]


@cache
def methods() -> tuple[Method, ...]:
    """Every shipped recipe, the usual one first, then those of its base."""
    made = [_method(name) for name in shipped()]
    first = next(one for one in made if one.key == MAIN_RECIPE)
    return tuple(sorted(made, key=lambda one: (one is not first, one.model != first.model, one.pairs, one.key)))


def method(key: str) -> Method:
    """Raises: UsageError."""
    found = next((one for one in methods() if one.key == key), None)
    if found is None:
        raise UsageError(f"there is no method {quoted(key)}", "choose one of the list")
    return found


def _method(name: str) -> Method:
    recipe = open_recipe(name).recipe
    role = next(iter(recipe.task.sources))
    trigger, token = _trigger(recipe)
    head, _, what = about(shipped()[name].read_text("utf-8")).partition(": ")
    return Method(
        name,
        f"{what[:1].upper()}{what[1:]} · {head}" if what else head,
        recipe.backbone.model,
        role,
        trigger,
        _subject(recipe),
        token,
        "prior" in recipe.sources,
        recipe.task.sources[role] is PairSource,
    )


def _trigger(recipe: Recipe) -> tuple[str, bool]:
    """(the recipe's own word, whether it is a new one)."""
    words = [word for adapter in recipe.adapters for word in adapter.words()]
    if words:
        return words[0], True
    said = [recipe.data.trigger, *(source.caption for sources in recipe.sources.values() for source in sources)]
    return (RARE if any(RARE in (text or "").split() for text in said) else ""), False


def _subject(recipe: Recipe) -> str:
    """The class of the recipe's example: what its class pictures show, or what its new word begins as."""
    for source in recipe.sources.get("prior", ()):
        if found := _CLASS.search(source.caption or ""):
            return found["word"]
    return next((a.init or "" for a in recipe.adapters if isinstance(a, TextualInversion)), "")
