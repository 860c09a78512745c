"""Training the two judges: a CLIP on pictures and captions, and a vision transformer that tells subjects apart."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from ...draws import Draws
from .. import world
from . import families, pictures, reader
from .classifier import spoil
from .fit import Course, fit

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import CLIPTokenizer

POOL = 30_000
FAMILIES = 7500
CLIP_COURSE = Course(steps=1600, lr=1.5e-3, batch=128)
"""Half of a batch are scenes at random, half are families; without those the class, which fewest pixels tell, is
learned last."""
CLIP_AGAIN = Course(steps=2400, lr=1.5e-3, batch=128, decay=0.5)
"""The same once more: after the first, a class among twelve is named rightly half of the time."""
SUBJECTS, POSES = 4000, 4
"""How many subjects, and pictures of each, the second judge learns to tell apart."""
DINO_COURSE = Course(steps=800, lr=1.5e-3, batch=64)
WARMTH = 0.1
"""Temperature of the subjects' contrast (Khosla et al. 2020, section 3.2)."""


def clip_config() -> CLIPConfig:
    text = {**reader.config(width=64, layers=3), "projection_dim": 64}
    text.pop("architectures")
    vision = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "projection_dim": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": world.SIZE,
        "patch_size": 8,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)


def train_clip(folder: Path, tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP (Radford et al. 2021): each caption to its picture and each picture to its caption."""
    torch.manual_seed(pictures.SEED)
    clip = CLIPModel(clip_config())
    pool = cache(lambda: pictures.arrays("train", POOL))
    alike = cache(lambda: pictures.drawn(families.member, FAMILIES * families.SIZE))
    half = CLIP_COURSE.batch // 2

    def loss(step: int) -> Tensor:
        picked = pictures.batch("clip", step, half, POOL)
        visit = 1000 + step * half // POOL
        captions = [pictures.caption("train", n, visit) for n in picked]
        members = [
            families.SIZE * n + place
            for n in pictures.batch("families", step, half // families.SIZE, FAMILIES)
            for place in range(families.SIZE)
        ]
        captions += [world.full(families.member(n)) for n in members]
        shown = pictures.to_input(torch.cat([pool()[picked], alike()[members]]))
        found = clip(input_ids=reader.ids(tokenizer, captions, reader.SHORT), pixel_values=spoil(shown, step))
        wanted = torch.arange(len(captions))
        return (cross_entropy(found.logits_per_text, wanted) + cross_entropy(found.logits_per_image, wanted)) / 2

    fit(clip, loss, CLIP_COURSE, folder)
    fit(clip, lambda step: loss(CLIP_COURSE.steps + step), CLIP_AGAIN, folder.with_name(f"{folder.name}-again"))
    return clip


def dino_config() -> Dinov2Config:
    return Dinov2Config(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=3,
        image_size=world.SIZE,
        patch_size=8,
    )


def train_dino(folder: Path) -> Dinov2Model:
    """A vision transformer in which pictures of one subject are near and those of another are far.

    Supervised contrast in place of self-distillation: this world says which pictures show the same thing.
    """
    torch.manual_seed(pictures.SEED)
    dino = Dinov2Model(dino_config())
    # of self-distillation, which is not done here
    dino.embeddings.mask_token.requires_grad_(False)  # type: ignore[union-attr]
    pool = cache(_poses)

    def loss(step: int) -> Tensor:
        draws = Draws(pictures.SEED).generator("toybox", "dino", step)
        subjects = draws.choice(SUBJECTS, DINO_COURSE.batch, replace=False)
        first = draws.integers(POSES, size=DINO_COURSE.batch)
        second = (first + 1 + draws.integers(POSES - 1, size=DINO_COURSE.batch)) % POSES
        drawn = torch.cat([pool()[subjects, first], pool()[subjects, second]])
        seen = normalize(dino(spoil(pictures.to_input(drawn), step)).pooler_output, dim=1)
        alike = seen @ seen.T / WARMTH
        alike.fill_diagonal_(-torch.inf)
        return cross_entropy(alike, torch.arange(len(seen)).roll(DINO_COURSE.batch))

    fit(dino, loss, DINO_COURSE, folder)
    return dino


def _poses() -> Tensor:
    """Pictures of every subject, (subjects, poses, 3, 64, 64) bytes."""
    with ProcessPoolExecutor(2) as pool:
        return torch.from_numpy(np.stack(list(pool.map(_subject, range(SUBJECTS), chunksize=64))))


def _subject(index: int) -> np.ndarray:
    shown = world.Subject.make(2_000_000 + index).photos(POSES, world.SIZE)
    return np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in shown])


PROCESSOR = {
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "crop_size": {"height": world.SIZE, "width": world.SIZE},
    "size": {"shortest_edge": world.SIZE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
}
"""How both judges want their pictures, in the form of a `preprocessor_config.json`."""
