"""Scenes that differ in one thing only: what a judge must learn to tell apart."""

from __future__ import annotations

from dataclasses import replace

from ...draws import Draws
from .. import world
from . import pictures

SIZE = 4
"""Scenes in a family."""


def family(index: int) -> tuple[world.Scene, ...]:
    """One scene and three that are the same but for the class, a colour, or which of two things has what."""
    rng = Draws(pictures.SEED).generator("toybox", "family", index)
    if rng.random() < 0.25:
        return exchanged(world.sample(rng, "pair"))
    scene = world.sample(rng, "count" if rng.random() < 0.15 else "single")
    several = renamed(scene) if rng.random() < 0.65 else recoloured(scene)
    return several[:1] + tuple(several[1 + n] for n in rng.permutation(len(several) - 1)[: SIZE - 1])


def member(index: int) -> world.Scene:
    """Scene `index` of all families, one after another."""
    return family(index // SIZE)[index % SIZE]


def renamed(scene: world.Scene) -> tuple[world.Scene, ...]:
    """The scene, and the same with things of every other class."""
    own = scene.things[0].name
    return tuple(_with(scene, name=name) for name in (own, *(name for name in world.CLASSES if name != own)))


def recoloured(scene: world.Scene) -> tuple[world.Scene, ...]:
    """The scene, and the same with things of every other colour that shows on its background."""
    own = scene.things[0].colour
    others = (colour for colour in world.COLOURS if colour != own and world.shows(colour, scene.background))
    return tuple(_with(scene, colour=colour) for colour in (own, *others))


def exchanged(scene: world.Scene) -> tuple[world.Scene, ...]:
    """A pair; the same with the colours, the names, and both of its two things exchanged."""
    one, two = scene.things
    ways = (
        (one, two),
        (replace(one, colour=two.colour), replace(two, colour=one.colour)),
        (replace(one, name=two.name), replace(two, name=one.name)),
        (replace(one, name=two.name, colour=two.colour), replace(two, name=one.name, colour=one.colour)),
    )
    return tuple(replace(scene, things=things) for things in ways)


def _with(scene: world.Scene, **changes: str) -> world.Scene:
    return replace(scene, things=tuple(replace(thing, **changes) for thing in scene.things))
