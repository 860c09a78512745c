"""Whether the toybox draws what it is told: held-out prompts, graded by the examiner and by the CLIP judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ... import toybox
from ...backbones import Backbone
from ...sampling import Shot, choose, paint
from .. import world
from . import classifier, pictures, sd35_parts
from .agreement import agreement
from .attributes import answers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

    from .classifier import Examiner

SINGLE = ("class", "colour", "background")
"""What must be right of a single object."""
COMPOSED = ("kind", "class", "colour", "second class", "second colour", "background", "word")
"""What must be right of a composition."""
STEPS = 20


@dataclass(frozen=True, slots=True)
class Family:
    """How the model of a family is examined."""

    backbone: Mapping[str, Any]
    """The recipe's section, as for any run."""
    guidance: float


FAMILIES = {
    "sd15": Family({"name": "sd15", "model": "toybox"}, 5.0),
    "sd35": Family({"name": "sd35", "model": "toybox", "t5_length": sd35_parts.T5_LENGTH}, 4.5),
}


@dataclass(frozen=True, slots=True)
class Grades:
    """How many of some pictures were right."""

    count: int
    right: float
    """Share with every question right."""
    each: dict[str, float]
    """Share by question."""
    pictures: tuple[Image, ...]
    prompts: tuple[str, ...]
    correct: tuple[bool, ...]


def held_out(kinds: Sequence[str], count: int) -> list[world.Scene]:
    """Scenes that no model was trained on, of each kind in turn; plain ones, for the examiner asks of nothing else."""
    found: list[world.Scene] = []
    index = 0
    while len(found) < count:
        scene = pictures.scene("held out", index, kinds[index % len(kinds)])
        index += 1
        if scene.style is None:
            found.append(scene)
    return found


def examine(
    backbone: Mapping[str, Any],
    examiner: Examiner,
    scenes: Sequence[world.Scene],
    asked: Sequence[str],
    guidance: float,
) -> Grades:
    """Draw each scene from its full description and grade the pictures."""
    prompts = [world.full(scene) for scene in scenes]
    loaded = Backbone.read(dict(backbone)).load(device=torch.device("cpu"), dtype=torch.float32)
    shots = [
        Shot(prompt, seed=seed, size=(world.SIZE, world.SIZE), steps=STEPS, guidance=guidance)
        for seed, prompt in enumerate(prompts)
    ]
    drawn = paint(loaded, shots, batch=25)
    return grades(examiner, pictures.stack(drawn), scenes, asked, drawn)


def grades(
    examiner: Examiner, seen: Tensor, scenes: Sequence[world.Scene], asked: Sequence[str], drawn: Sequence[Image] = ()
) -> Grades:
    """Grade pictures (N, 3, 64, 64 bytes) of scenes."""
    marks = classifier.grade(examiner, pictures.to_input(seen), scenes)
    right = torch.stack([marks[name] for name in asked]).all(0)
    return Grades(
        len(scenes),
        float(right.float().mean()),
        {name: float(marks[name].float().mean()) for name in asked},
        tuple(drawn),
        tuple(world.full(scene) for scene in scenes),
        tuple(right.tolist()),
    )


def after_round_trip(vae: Any, drawn: Tensor) -> Tensor:
    """Drawn pictures as the VAE gives them back, bytes."""
    with torch.no_grad():
        parts = [vae.decode(vae.encode(pictures.to_input(part)).latent_dist.mode()).sample for part in drawn.split(100)]
    return ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().byte()


def figures(name: str, examiner: Examiner, clip: Path, singles: int = 500, composed: int = 300) -> dict[str, Any]:
    """What the card publishes of a family's model."""
    family = FAMILIES[name]
    plain = held_out(("single",), singles)
    several = held_out(("pair", "pair", "count", "word"), composed)
    sampler = choose(toybox.configs(name)["scheduler"], "auto")
    found: dict[str, Any] = {"steps": STEPS, "guidance": family.guidance, "sampler": sampler}
    for title, scenes, asked in (("single objects", plain, SINGLE), ("compositions", several, COMPOSED)):
        drawn = pictures.stack([world.render(scene) for scene in scenes])
        round_trip = grades(examiner, after_round_trip(_vae(toybox.folder(name)), drawn), scenes, asked)
        graded = examine(family.backbone, examiner, scenes, asked, family.guidance)
        found[title] = {
            "prompts": graded.count,
            "right": graded.right,
            "each": graded.each,
            "clip_t": agreement(clip, graded.pictures, graded.prompts),
            "clip_t of drawn pictures": agreement(clip, [world.render(scene) for scene in scenes], graded.prompts),
            "drawn pictures after a VAE round trip": {"right": round_trip.right, "each": round_trip.each},
        }
    return found


def at_chance(examiner: Examiner, count: int = 1000) -> dict[str, Any]:
    """How an examiner that learned from shuffled answers does on held-out drawn pictures, beside always one answer."""
    scenes = held_out(("single",), count)
    graded = grades(examiner, pictures.stack([world.render(scene) for scene in scenes]), scenes, SINGLE)
    common = {
        name: max(np.unique([answers(scene)[name] for scene in scenes], return_counts=True)[1]) / count
        for name in SINGLE
    }
    return {"each": graded.each, "the commonest answer": {name: float(share) for name, share in common.items()}}


def _vae(model: Path) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_pretrained(model / "vae")
