"""Training the toybox's UNet with its text encoder, on cached latents whose captions are new at each visit."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from ...draws import Draws
from .. import words
from . import pictures, reader
from .fit import Course, fit

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from torch import Tensor
    from transformers import CLIPTextModel, CLIPTokenizer

POOL = 30_000
COURSE = Course(steps=7200, lr=1.2e-3, batch=32, warmup=200, decay=0.35)
COMPOSED_POOL = 16_000
COMPOSED = Course(steps=1600, lr=8e-4, batch=32, warmup=50, decay=0.7)
"""Then once more, mostly on pairs and words, which take longest to learn."""
UNSAID = 0.1
"""Share of captions that are left empty, for guidance (Ho & Salimans 2022)."""
LONG = 0.6
"""Share of the steps after which captions are padded to their full length, as they will be in use; it takes longer."""
GAMMA = 5.0
"""Of the min-SNR weights (Hang et al. 2023)."""
CONFIG = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [48, 96, 96],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": reader.WIDTH,
    "attention_head_dim": 3,
}
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
}
"""Stable Diffusion 1.5's."""


def train(
    folder: Path, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The trained UNet and the text encoder that learned with it; states of both stages are kept in `folder`."""
    torch.manual_seed(pictures.SEED)
    unet = UNet2DConditionModel.from_config(CONFIG).to(memory_format=torch.channels_last)  # type: ignore[union-attr]
    both = nn.ModuleDict({"unet": unet, "text": text})
    _stage(folder, vae, both, tokenizer, COURSE, "train", POOL)
    _stage(folder.with_name(folder.name + "-composed"), vae, both, tokenizer, COMPOSED, "composed", COMPOSED_POOL)
    return unet, text


def _stage(
    folder: Path,
    vae: AutoencoderKL,
    both: nn.ModuleDict,
    tokenizer: CLIPTokenizer,
    course: Course,
    purpose: str,
    count: int,
) -> None:
    """Train on the first `count` scenes of a purpose."""
    unet, text = both["unet"], both["text"]
    scheduler = DDPMScheduler(**SCHEDULE)
    encoded = cache(lambda: latents(vae, pictures.arrays(purpose, count)))

    def loss(step: int) -> Tensor:
        picked = pictures.batch(purpose, step, course.batch, count)
        visit = step * course.batch // count
        captions = [pictures.caption(purpose, n, visit) for n in picked]
        draws = Draws(pictures.SEED).generator("toybox", "denoiser", purpose, step)
        hidden = draws.random(course.batch) < UNSAID
        captions = ["" if no else said for no, said in zip(hidden, captions, strict=True)]
        torch.manual_seed(step)
        mean, deviation = encoded()
        x = mean[picked] + deviation[picked] * torch.randn(mean[picked].shape)
        noise = torch.randn(x.shape)
        # one level from each of as many equal parts, so that no batch lacks the coarse or the fine
        levels = ((torch.randperm(course.batch) + torch.rand(course.batch)) / course.batch * 1000).long()
        x_t = scheduler.add_noise(x, noise, levels)  # type: ignore[arg-type]
        length = reader.SHORT if purpose == "train" and step < LONG * course.steps else words.LENGTH
        states = text(reader.ids(tokenizer, captions, length)).last_hidden_state
        said = unet(x_t.contiguous(memory_format=torch.channels_last), levels, states).sample
        ratio = compute_snr(scheduler, levels)
        weight = ratio.clamp(max=GAMMA) / ratio
        return (weight * (said - noise).square().mean((1, 2, 3))).mean()

    fit(both, loss, course, folder)


@torch.no_grad()
def latents(vae: AutoencoderKL, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the scaled latents of every picture, each (N, 4, 16, 16)."""
    factor = vae.config.scaling_factor  # type: ignore[union-attr]
    found = [vae.encode(pictures.to_input(part)).latent_dist for part in drawn.split(100)]  # type: ignore[union-attr]
    means, deviations = [posterior.mean for posterior in found], [posterior.std for posterior in found]
    return torch.cat(means) * factor, torch.cat(deviations) * factor
