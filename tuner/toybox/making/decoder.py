"""Training the VAE's decoder on, when the latents are settled: crisper pictures from the same latents."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from . import pictures
from .autoencoder import POOL, error
from .fit import Course, fit

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from torch import Tensor

COURSE = Course(steps=1000, lr=1.5e-3, batch=24, decay=0.7, weight_decay=0.0, ema=0.995)
BLUR = 0.08
"""Noise on the latents, in their own width, as a sampler leaves some."""


def train(folder: Path, vae: AutoencoderKL, course: Course = COURSE) -> AutoencoderKL:
    """The same VAE with a better decoder; the encoder, and so every latent, is as it was."""
    torch.manual_seed(pictures.SEED + 1)
    vae.encoder.requires_grad_(False)
    if vae.quant_conv is not None:
        vae.quant_conv.requires_grad_(False)
    pool = cache(lambda: pictures.everything(POOL))
    width = 1 / vae.config.scaling_factor  # type: ignore[union-attr]

    def loss(step: int) -> Tensor:
        x = pictures.to_input(pool()[pictures.batch("decoder", step, course.batch, POOL)])
        torch.manual_seed(step)
        with torch.no_grad():
            latents = vae.encode(x).latent_dist.sample()  # type: ignore[union-attr]
            latents = latents + BLUR * width * torch.rand(len(x), 1, 1, 1) * torch.randn(latents.shape)
        return error(vae.decode(latents).sample, x)  # type: ignore[union-attr]

    fit(vae, loss, course, folder)
    return vae
