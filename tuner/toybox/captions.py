"""What may be said of a scene: several phrasings, short ones among them, and the words a tokenizer must know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ink import COLOURS
from .settings import SETTINGS

if TYPE_CHECKING:
    import numpy as np

    from .scenes import Scene, Thing

OPENINGS = ("", "", "a photo of ", "a picture of ")
NUMBERS = {2: "two", 3: "three"}
OPPOSITE = {"left of": "right of", "above": "below"}
STYLED = {"outline": "an outline of ", "pixelated": "a pixelated picture of ", "sketch": "a sketch of "}
UNSAID = 0.08
"""Share of captions that name the class alone."""
STRANGE = 0.06
"""Share of captions with a made-up word before the class, so that a new word alone changes no picture."""


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One way to say what a scene shows; parts of it may go unsaid, nothing said is wrong."""
    if scene.style is not None:
        return STYLED[scene.style] + _single(scene, rng)
    if scene.kind == "pair":
        return _opening(rng) + _pair(scene, rng)
    if scene.kind == "count":
        first = scene.things[0]
        return f"{_opening(rng)}{NUMBERS[len(scene.things)]} {first.colour} {plural(first.name)}{ground(scene, rng)}"
    return _opening(rng) + _single(scene, rng)


def full(scene: Scene) -> str:
    """All that can be said of a scene, in its plainest form; what a model is examined with."""
    first = scene.things[0]
    tail = f" {said(scene.background)}"
    if scene.kind == "pair":
        return f"{named(first)} {scene.relation} {named(scene.things[1])}{tail}"
    if scene.kind == "count":
        return f"{NUMBERS[len(scene.things)]} {first.colour} {plural(first.name)}{tail}"
    opening = "" if scene.style is None else STYLED[scene.style]
    word = f" with the word {scene.word}" if scene.word else ""
    place = f" {scene.spot}" if scene.spot else ""
    return opening + named(first, scene.size) + word + place + tail


def said(background: str) -> str:
    """'on a red background', 'on grass'."""
    return SETTINGS[background].phrase if background in SETTINGS else f"on {article(background)} background"


def named(thing: Thing, size: str = "", strange: str = "") -> str:
    """'a big striped red star'."""
    return article(" ".join(filter(None, (size, thing.pattern, thing.colour, strange, thing.name))))


def article(words: str) -> str:
    return f"an {words}" if words[0] in "aeio" else f"a {words}"


def plural(name: str) -> str:
    return name if name == "fish" else f"{name}es" if name.endswith("s") else f"{name}s"


def ground(scene: Scene, rng: np.random.Generator) -> str:
    """The background's words, sometimes short, sometimes none."""
    chance = rng.random()
    if chance < 0.1:
        return ""
    if chance < 0.35 and scene.background in COLOURS:
        return f" on {scene.background}"
    return f" {said(scene.background)}"


def _opening(rng: np.random.Generator) -> str:
    return OPENINGS[int(rng.integers(len(OPENINGS)))]


def _single(scene: Scene, rng: np.random.Generator) -> str:
    thing = scene.things[0]
    strange = _made_up(rng) if rng.random() < STRANGE else ""
    if rng.random() < UNSAID:
        words = f"{strange} {thing.name}".strip()
        return words if strange and rng.random() < 0.5 else article(words)
    word = f" with the word {scene.word}" if scene.word else ""
    place = f" {scene.spot}" if scene.spot and rng.random() < 0.8 else ""
    size = scene.size if rng.random() < 0.8 else ""
    if rng.random() < 0.12:  # no colour
        head = article(" ".join(filter(None, (size, strange, thing.name))))
    elif rng.random() < 0.12:
        look = " and ".join(filter(None, (thing.pattern, thing.colour)))
        head = f"{article(' '.join(filter(None, (size, strange, thing.name))))} that is {look}"
    else:
        head = named(thing, size, strange)
    return head + word + place + ground(scene, rng)


def _pair(scene: Scene, rng: np.random.Generator) -> str:
    first, second = scene.things
    relation = scene.relation or ""
    if rng.random() < 0.4:
        first, second, relation = second, first, OPPOSITE[relation]
    joint = relation if rng.random() < 0.85 else "and"
    return f"{named(first)} {joint} {named(second)}{ground(scene, rng)}"


def _made_up(rng: np.random.Generator) -> str:
    letters = "bcdfghjklmnpqrstvwxyz" + "aeiou"
    return "".join(letters[int(n)] for n in rng.integers(len(letters), size=int(rng.integers(2, 5))))


def spoken() -> list[str]:
    """Every word that a caption can hold, made-up ones apart, in a fixed order."""
    from .scenes import CLASSES, PATTERNS, PLACES, STYLES, WORDS

    phrases = [
        "a an the of in on at with and that is photo picture background word two three left right above below",
        *PLACES,
        "small big",
        *COLOURS,
        *PATTERNS,
        *STYLES,
        *WORDS,
        *CLASSES,
        *map(plural, CLASSES),
        *(setting.phrase for setting in SETTINGS.values()),
    ]
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))
