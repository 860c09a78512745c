"""Training the toybox's UNet together with its text encoder, on cached latents with captions that are new each visit."""

from __future__ import annotations

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
COURSE = Course(steps=8000, lr=1.2e-3, batch=32, warmup=200, decay=0.35)
UNSAID = 0.1
"""Share of captions that are left empty, for guidance (Ho & Salimans 2022)."""
GAMMA = 5.0
"""Of the min-SNR weights (Hang et al. 2023)."""
CONFIG = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [48, 96, 128],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": reader.WIDTH,
    "attention_head_dim": 4,
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
    folder: Path, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, course: Course = COURSE
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The trained UNet and the text encoder that learned with it."""
    torch.manual_seed(pictures.SEED)
    unet = UNet2DConditionModel.from_config(CONFIG).to(memory_format=torch.channels_last)  # type: ignore[union-attr]
    both = nn.ModuleDict({"unet": unet, "text": text})
    scheduler = DDPMScheduler(**SCHEDULE)
    mean, deviation = latents(vae, pictures.arrays("train", POOL))

    def loss(step: int) -> Tensor:
        picked = pictures.batch("denoiser", step, course.batch, POOL)
        visit = step * course.batch // POOL
        captions = [pictures.caption("train", n, visit) for n in picked]
        draws = Draws(pictures.SEED).generator("toybox", "denoiser", step)
        hidden = draws.random(course.batch) < UNSAID
        captions = ["" if no else said for no, said in zip(hidden, captions, strict=True)]
        torch.manual_seed(step)
        x = mean[picked] + deviation[picked] * torch.randn(mean[picked].shape)
        noise = torch.randn(x.shape)
        # one level from each of as many equal parts, so that no batch lacks the coarse or the fine
        levels = ((torch.randperm(course.batch) + torch.rand(course.batch)) / course.batch * 1000).long()
        x_t = scheduler.add_noise(x, noise, levels)  # type: ignore[arg-type]
        states = text(reader.ids(tokenizer, captions, words.LENGTH)).last_hidden_state
        said = unet(x_t.contiguous(memory_format=torch.channels_last), levels, states).sample
        ratio = compute_snr(scheduler, levels)
        weight = ratio.clamp(max=GAMMA) / ratio
        return (weight * (said - noise).square().mean((1, 2, 3))).mean()

    fit(both, loss, course, folder)
    return unet, text


@torch.no_grad()
def latents(vae: AutoencoderKL, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the scaled latents of every picture, each (N, 4, 16, 16)."""
    factor = vae.config.scaling_factor  # type: ignore[union-attr]
    found = [vae.encode(pictures.to_input(part)).latent_dist for part in drawn.split(100)]  # type: ignore[union-attr]
    means, deviations = [posterior.mean for posterior in found], [posterior.std for posterior in found]
    return torch.cat(means) * factor, torch.cat(deviations) * factor
