"""The judges' own figures: how well pictures and captions agree, and what each judge can tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ...evaluation import judges
from .. import world
from . import families, pictures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

CPU = torch.device("cpu")
QUESTIONS = 200
"""Held-out scenes, or families of them, for each figure."""


def agreement(clip: Path, drawn: Sequence[Image], captions: Sequence[str]) -> float:
    """Mean cosine of each picture and its caption (CLIP-T; Hessel et al. 2021 without the factor)."""
    judge = judges.clip(clip, CPU)
    return float((judge.pictures(drawn) * judge.texts(captions)).sum(1).mean())


def told_apart(clip: Path, dino: Path) -> dict[str, float]:
    """Shares of right answers about held-out drawn pictures, by the question."""
    reads, sees = judges.clip(clip, CPU), judges.dino(dino, CPU)
    single = [pictures.scene("judged", n, "single") for n in range(QUESTIONS)]
    pairs = [pictures.scene("judged", n, "pair") for n in range(QUESTIONS)]
    pairs = [pair for pair in pairs if len({thing.name for thing in pair.things}) == 2]
    mixed = [pictures.scene("judged", n) for n in range(QUESTIONS)]
    return {
        "CLIP: its caption among 200": _named(reads, [mixed], mixed),
        "CLIP: its class among 12, all else alike": _named(reads, [families.renamed(s) for s in single]),
        "CLIP: its colour, all else alike": _named(reads, [families.recoloured(s) for s in single]),
        "CLIP: which of two things has what": _named(reads, [families.exchanged(s) for s in pairs]),
        "DINO: another picture of this subject among 200 subjects of one class": _recognised(sees),
    }


def _named(judge: judges.Judge, groups: Sequence[Sequence[world.Scene]], shown: Sequence[world.Scene] = ()) -> float:
    """How often a picture's own caption is nearest among a group's; of each group its first is shown."""
    right = []
    for group in groups:
        shown_here = shown or group[:1]
        seen = judge.pictures([world.render(scene) for scene in shown_here])
        nearest = (seen @ judge.texts([world.full(scene) for scene in group]).T).argmax(1)
        right += list(nearest == np.arange(len(shown_here)))
    return float(np.mean(right))


def _recognised(judge: judges.Judge) -> float:
    """How often the nearest of one picture of each subject is the same subject's."""
    subjects = [world.Subject.make(9_000_000 + n, "mushroom").photos(2, world.SIZE) for n in range(QUESTIONS)]
    one, two = (judge.pictures([photos[place] for photos in subjects]) for place in (0, 1))
    return float(np.mean((one @ two.T).argmax(1) == np.arange(QUESTIONS)))
