"""The examiner: a classifier of what a picture shows, trained on drawn pictures alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from . import pictures
from .attributes import HEADS, UNASKED, error, labels
from .fit import Course, fit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from .. import world

POOL = 30_000
COURSE = Course(steps=2600, lr=1.5e-3, batch=96, ema=0.998, weight_decay=0.05)
SHUFFLED_STEPS = 800
"""Enough to learn the answers where there is something to learn; the loss has long been flat."""


class Examiner(nn.Module):
    """Five strided convolutions and one linear question for each attribute."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 48, 96, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
            if before > 3:
                layers += [nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.see = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 256), nn.SiLU(), nn.Dropout(0.2))
        self.questions = nn.ModuleDict({name: nn.Linear(256, len(said)) for name, said in HEADS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute; x (B, 3, 64, 64) in [-1, 1]."""
        seen = self.see(x)
        return {name: question(seen) for name, question in self.questions.items()}


def train(folder: Path, *, shuffled: bool = False) -> Examiner:
    """The trained examiner; `shuffled` gives every picture the answers of another, which must leave it at chance."""
    torch.manual_seed(pictures.SEED)
    examiner = Examiner().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pool = cache(lambda: pictures.arrays("train", POOL))

    @cache
    def wanted() -> dict[str, Tensor]:
        right = labels([pictures.scene("train", n) for n in range(POOL)])
        return {name: value.roll(POOL // 3) for name, value in right.items()} if shuffled else right

    def loss(step: int) -> Tensor:
        picked = pictures.batch("classifier", step, COURSE.batch, POOL)
        x = spoil(pictures.to_input(pool()[picked]), step)
        said = examiner(x)
        return error(said, {name: value[picked] for name, value in wanted().items()})

    fit(examiner, loss, replace(COURSE, steps=SHUFFLED_STEPS) if shuffled else COURSE, folder)
    return examiner


def spoil(x: Tensor, step: int) -> Tensor:
    """Blur, noise and shifts of tone, each to a part of the batch, as a small VAE or a sampler might leave."""
    rng = torch.Generator().manual_seed(step)
    chance = torch.rand(5, len(x), 1, 1, 1, generator=rng)
    blurred = avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = torch.where(chance[0] < 0.4, blurred, x)
    x = torch.where(chance[1] < 0.4, 1.6 * x - 0.6 * blurred, x)
    x = x + torch.randn(x.shape, generator=rng) * 0.12 * (chance[2] - 0.3).clamp(0, 1)
    x = x + (torch.rand(len(x), 3, 1, 1, generator=rng) - 0.5) * 0.2
    coarse = torch.randn(len(x), 3, 8, 8, generator=rng)
    x = x + 0.08 * (chance[3] < 0.5) * nn.functional.interpolate(coarse, size=64, mode="bilinear")
    return x.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def grade(examiner: Examiner, x: Tensor, scenes: Sequence[world.Scene]) -> dict[str, Tensor]:
    """Whether each answer is right, (B,) bool for each question; right where the question makes no sense.

    Two things of one kind, `a star above a star`, have their order from their places, so nothing else is right.
    """
    said, wanted = examiner(x), labels(scenes)
    return {name: (said[name].argmax(1) == wanted[name]) | (wanted[name] == UNASKED) for name in HEADS}
