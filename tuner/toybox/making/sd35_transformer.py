"""Training the toybox's multimodal transformer through the very backbone and objective that fine-tune it later."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import nn

from ...backbones.sd35 import SD35
from ...backbones.sd35_model import SD35Model
from ...draws import Draws
from ...objectives.flow_levels import ConstantShift
from ...objectives.rectified_flow import RectifiedFlow
from ...types import Batch, Cond
from . import pictures, sd35_parts
from .fit import Course, fit
from .sd35_readers import T5_LENGTHS, t5_length

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

POOL = 30_000
COURSE = Course(steps=22_000, lr=1e-3, batch=32, warmup=300, decay=0.35)
COMPOSED_POOL = 16_000
COMPOSED = Course(steps=3_000, lr=6e-4, batch=32, warmup=50, decay=0.7)
"""Then once more, with more pairs and words than at first, which take longest to learn."""
UNSAID = 0.1
"""Share of captions that are left empty, for guidance (Ho & Salimans 2022)."""
DEAF = 0.15
"""How often each encoder is zeros; the paper's 46.3 % makes the unconditional model in the same stroke, while here
an empty caption does that."""


def train(
    folder: Path,
    modules: Mapping[str, nn.Module],
    tokenizers: Mapping[str, Any],
    courses: tuple[Course, Course] = (COURSE, COMPOSED),
) -> SD3Transformer2DModel:
    """The trained transformer; states of both stages are kept in `folder` and beside it.

    Args:
        folder: for its states.
        modules: VAE and text encoders by component name, frozen.
        tokenizers: by the name of their text encoder.
        courses: of both stages.
    """
    torch.manual_seed(pictures.SEED)
    transformer = SD3Transformer2DModel.from_config(dict(sd35_parts.TRANSFORMER))
    initialise(transformer)  # type: ignore[arg-type]
    parts = {**modules, "transformer": transformer}
    stages = ((folder, "train", POOL), (folder.with_name(f"{folder.name}-composed"), "sd35 composed", COMPOSED_POOL))
    for (place, purpose, count), course in zip(stages, courses, strict=True):
        _stage(place, wrapped(parts, tokenizers), transformer, course, purpose, count)  # type: ignore[arg-type]
    return transformer  # type: ignore[return-value]


def wrapped(modules: Mapping[str, nn.Module], tokenizers: Mapping[str, Any]) -> dict[int, SD35Model]:
    """The backbone's model over these modules, by the number of tokens that T5 reads."""
    return {
        length: SD35Model(
            SD35(model="toybox", t5_length=length), modules, tokenizers, sd35_parts.SCHEDULER, lambda _component: ""
        )
        for length, _ in T5_LENGTHS
    }


def _stage(
    folder: Path, models: Mapping[int, SD35Model], transformer: nn.Module, course: Course, purpose: str, count: int
) -> None:
    """Train on the first `count` scenes of a purpose."""
    flow = RectifiedFlow(shift=ConstantShift(value=sd35_parts.SHIFT)).bind(sd35_parts.SCHEDULER, torch.device("cpu"))
    encoded = cache(lambda: latents(models[sd35_parts.T5_LENGTH], pictures.arrays(purpose, count)))

    def loss(step: int) -> Tensor:
        picked = pictures.batch(f"sd35 {purpose}", step, course.batch, count)
        visit = step * course.batch // count
        captions = [pictures.caption(purpose, n, visit) for n in picked]
        rng = Draws(pictures.SEED).generator("toybox", "sd35", purpose, step)
        hidden = rng.random(course.batch) < UNSAID
        captions = ["" if no else said for no, said in zip(hidden, captions, strict=True)]
        model = models[t5_length(step)]
        with torch.no_grad(), quickly():
            heard = torch.from_numpy(rng.random((3, course.batch)) >= DEAF)
            cond = hear(model.encode_text(model.tokenize(captions)), heard)
        torch.manual_seed(step)
        mean, deviation = encoded()
        x_0 = mean[picked].float()
        x_0 = x_0 + deviation * torch.randn(x_0.shape)
        # one level from each of as many equal parts, so that no batch lacks the coarse or the fine
        level = (torch.randperm(course.batch) + torch.rand(course.batch)) / course.batch
        draws = {"noise": torch.randn(x_0.shape), "level": level}
        noised = flow.corrupt(Batch(x_0, draws, cond, torch.full((course.batch,), 1 / course.batch), ()))
        with quickly():
            velocity = model.denoise(noised.x_t, noised.timestep, cond)
        return noised.losses(velocity.float()).mean()

    fit(transformer, loss, course, folder)


def quickly() -> torch.autocast:
    """Matrix products in bfloat16, twice as fast on a CPU that has them; the weights stay in fp32."""
    return torch.autocast("cpu", torch.bfloat16)


def hear(cond: Cond, heard: Tensor) -> Cond:
    """Zeros in the place of encoders that are not heard; heard (3, B) bool for both CLIPs and T5."""
    first, second, third = heard[:, :, None].float()
    left, right = sd35_parts.L_WIDTH, sd35_parts.G_WIDTH
    clips = torch.cat([first.expand(-1, left), second.expand(-1, right)], 1)  # (B, D)
    text = cond["text"].clone()
    text[:, : sd35_parts.CLIP_LENGTH] *= clips[:, None]
    text[:, sd35_parts.CLIP_LENGTH :] *= third[:, None]
    return Cond({"text": text, "pooled": cond["pooled"] * clips})


@torch.no_grad()
def latents(model: SD35Model, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the scaled latents of every picture, (N, 16, 16, 16) in half precision, and their mean deviation.

    The deviation is one for each channel, (16, 1, 1): what differs from place to place would double the memory.
    """
    means, deviations = [], []
    for part in drawn.split(100):
        posterior = model.encode_images(pictures.to_input(part))
        means.append(posterior.mean.half())
        deviations.append((posterior.logvar / 2).exp().mean((0, 2, 3)))
    return torch.cat(means).contiguous(), torch.stack(deviations).mean(0)[:, None, None]


def initialise(transformer: nn.Module) -> None:
    """As in Peebles & Xie 2023 (adaLN-Zero): every block begins as the identity and the velocity as 0."""
    for name, layer in transformer.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight.flatten(1))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            if "norm1" in name or name in ("norm_out.linear", "proj_out"):
                nn.init.zeros_(layer.weight)
        if isinstance(layer, nn.Linear) and name.startswith("time_text_embed"):
            nn.init.normal_(layer.weight, std=0.02)
