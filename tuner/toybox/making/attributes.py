"""What can be asked about a picture of the world, and the answers of a scene as class numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from .. import world

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

KINDS = ("single", "left of", "above", "two", "three", "word")
HEADS: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "class": world.CLASSES,
    "colour": tuple(world.COLOURS),
    "second class": world.CLASSES,
    "second colour": tuple(world.COLOURS),
    "background": world.BACKGROUNDS,
    "pattern": ("plain", *world.PATTERNS),
    "style": ("filled", *world.STYLES),
    "word": world.WORDS,
}
"""The answers to each question; of two things, the first is the left or the upper one."""
UNASKED = -1


def answers(scene: world.Scene) -> dict[str, int]:
    """The number of each answer; UNASKED where the question makes no sense."""
    first, last = scene.things[0], scene.things[-1]
    single = scene.kind == "single"
    found = {
        "kind": scene.relation or {2: "two", 3: "three"}.get(len(scene.things), scene.kind),
        "class": first.name,
        "colour": first.colour,
        "second class": last.name if scene.relation else None,
        "second colour": last.colour if scene.relation else None,
        "background": scene.background,
        "pattern": (first.pattern or "plain") if single and scene.style is None else None,
        "style": (scene.style or "filled") if single else None,
        "word": scene.word,
    }
    return {name: UNASKED if said is None else HEADS[name].index(said) for name, said in found.items()}


def labels(scenes: Sequence[world.Scene]) -> dict[str, Tensor]:
    """Answers of several scenes, (B,) for each question."""
    rows = [answers(scene) for scene in scenes]
    return {name: torch.tensor([row[name] for row in rows]) for name in HEADS}


def error(said: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """Mean cross entropy of each question where it was asked, summed over the questions."""
    return torch.stack(
        [
            cross_entropy(said[name], wanted[name], ignore_index=UNASKED, reduction="sum")
            / (wanted[name] != UNASKED).sum().clamp(min=1)
            for name in HEADS
        ]
    ).sum()
