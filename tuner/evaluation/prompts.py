"""What a model is asked to draw when it is measured: the subject in contexts, and things to be left alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ARTICLE = re.compile(r"(an?|the) +", re.IGNORECASE)
OPENING = re.compile(r"(an?|the) +\w+ +of +", re.IGNORECASE)
"""'a photo of ', which may stand before the thing itself."""
FIELD = re.compile(r"\{(a|bare|)\}")


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts with a place for the thing: `{}` as the caption calls it, `{a}` with an article, `{bare}` without."""

    name: str
    contexts: tuple[str, ...]
    unrelated: tuple[str, ...]
    """Prompts that have nothing to do with the subject or its class."""
    per_prompt: int = 1
    """Pictures for each of them where the user does not say."""


def noun(caption: str) -> str:
    """What a caption names: 'sks dog' of 'a photo of sks dog'."""
    return OPENING.sub("", caption.strip(), count=1) or caption.strip()


def fill(template: str, thing: str) -> str:
    """A template with the thing in its place."""
    bare = ARTICLE.sub("", thing, count=1) if ARTICLE.match(thing) else thing
    forms = {"": thing, "bare": bare, "a": f"{'an' if bare[:1].lower() in 'aeiou' else 'a'} {bare}"}
    return FIELD.sub(lambda found: forms[found[1]], template)


def own(path: Path) -> PromptSet:
    """A user's prompts, one a line. Raises: UsageError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: the prompts cannot be read: {error}") from error
    said = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    contexts = tuple(line for line in said if FIELD.search(line))
    if not contexts:
        raise UsageError(
            f"{path}: no line holds {{}}", "write {} where your subject goes, as in: a photo of {} on a beach"
        )
    return PromptSet(path.name, contexts, tuple(line for line in said if not FIELD.search(line)))


_PLACES = (
    "in the jungle",
    "in the snow",
    "on the beach",
    "on a cobblestone street",
    "on top of pink fabric",
    "on top of a wooden floor",
    "with a city in the background",
    "with a mountain in the background",
    "with a blue house in the background",
    "on top of a purple rug in a forest",
)
_THINGS = (
    "with a wheat field in the background",
    "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background",
    "floating on top of water",
    "floating in an ocean of milk",
    "on top of green grass with sunflowers around it",
    "on top of a mirror",
    "on top of the sidewalk in a crowded street",
    "on top of a dirt road",
    "on top of a white rug",
)
_CLOTHES = (
    "wearing a red hat",
    "wearing a santa hat",
    "wearing a rainbow scarf",
    "wearing a black top hat and a monocle",
    "in a chef outfit",
    "in a firefighter outfit",
    "in a police outfit",
    "wearing pink glasses",
    "wearing a yellow shirt",
    "in a purple wizard outfit",
)
_LOOKS = ("red", "purple", "shiny", "wet", "cube shaped")
_ELSEWHERE = (
    "a photo of a bowl of oranges on a table",
    "a castle by a lake",
    "an oil painting of a ship at sea",
    "a photo of a crowded street at night",
    "a pencil drawing of a tree",
    "a photo of a red bicycle against a wall",
)


def _paper(name: str, places: Sequence[str]) -> PromptSet:
    contexts = tuple(f"{{a}} {place}" for place in places) + tuple(f"a {look} {{bare}}" for look in _LOOKS)
    return PromptSet(name, contexts, _ELSEWHERE)


OBJECTS = _paper("objects", _PLACES + _THINGS)
"""The 25 prompts for objects of Ruiz et al. 2023, from github.com/google/dreambooth (CC BY 4.0)."""
LIVE = _paper("live", _PLACES + _CLOTHES)
"""The 25 prompts for live subjects, from there."""
LIVING = frozenset({"dog", "cat", "puppy", "kitten", "person", "man", "woman", "boy", "girl", "child", "baby", "horse"})
"""Class words that take LIVE."""


def toybox() -> PromptSet:
    """Prompts of the small world."""
    from ..toybox.world import CLASSES, contexts

    unrelated = [f"a photo of a {name}" for name in CLASSES]
    return PromptSet("toybox", tuple(f"a photo of {context}" for context in contexts()), tuple(unrelated), 2)


def choose(asked: str | None, *, on_toybox: bool, class_noun: str) -> PromptSet:
    """The set that a user named, else the one that fits.

    Args:
        asked: `objects`, `live`, `toybox` or a file; None chooses.
        on_toybox: whether the base is the small model.
        class_noun: what the subject is, such as 'a dog'.

    Raises: UsageError where there is no such set or file.
    """
    known = {"objects": lambda: OBJECTS, "live": lambda: LIVE, "toybox": toybox}
    if asked is not None and asked not in known:
        if not Path(asked).expanduser().is_file():
            raise UsageError(f"no prompts {asked!r}", f"name a file, or one of {', '.join(known)}")
        return own(Path(asked).expanduser())
    if asked is None:
        words = class_noun.lower().split()
        asked = "toybox" if on_toybox else "live" if words and words[-1] in LIVING else "objects"
    return known[asked]()
