"""Training the toybox's VAE by absolute and squared error and a trace of KL (Rombach et al. 2022, no critic)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch.nn.functional import avg_pool2d

from . import pictures
from .fit import Course, fit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

POOL = 12_000
"""Pictures drawn for it."""
COURSE = Course(steps=1700, lr=3e-3, batch=24, decay=0.6, weight_decay=0.0, ema=0.995)
KL = 1e-6
CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 32, 64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 64,
    "mid_block_add_attention": False,
}


def train(
    folder: Path, config: Mapping[str, Any] = CONFIG, course: Course = COURSE, *, kl: float = KL, halved: float = 0.0
) -> AutoencoderKL:
    """The trained VAE; its `scaling_factor` makes the latents of drawn pictures one wide.

    Args:
        folder: for its states.
        config: of the VAE.
        course: how long.
        kl: weight of the divergence, summed over all latents of a picture.
        halved: weight of the error of pictures of half the side, from latents of half the side. What is alike at every
            scale is smooth, and a denoiser learns it sooner (Skorokhodov et al. 2025, scale equivariance).
    """
    torch.manual_seed(pictures.SEED)
    vae = AutoencoderKL.from_config(dict(config)).to(memory_format=torch.channels_last)  # type: ignore[union-attr]
    pool = cache(lambda: pictures.everything(POOL))  # drawn at the first step, if there is one to do

    def loss(step: int) -> Tensor:
        x = pictures.to_input(pool()[pictures.batch("vae", step, course.batch, POOL)])
        torch.manual_seed(step)
        posterior = vae.encode(x).latent_dist
        latents = posterior.sample()
        whole = error(vae.decode(latents).sample, x) + kl * posterior.kl().mean()
        if not halved:
            return whole
        return whole + halved * error(vae.decode(avg_pool2d(latents, 2)).sample, avg_pool2d(x, 2))

    fit(vae, loss, course, folder)
    vae.register_to_config(scaling_factor=shift_and_scale(vae, pictures.everything(500))[1])
    return vae


def error(found: Tensor, x: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of local contrast, which keeps outlines crisp."""
    off = found - x
    local = off - avg_pool2d(off, 3, 1, 1, count_include_pad=False)
    return off.abs().mean() + off.square().mean() + 0.5 * local.abs().mean()


@torch.no_grad()
def shift_and_scale(vae: AutoencoderKL, drawn: Tensor) -> tuple[float, float]:
    """Mean of the latents, and 1 / their standard deviation around it (Rombach et al. 2022, appendix G)."""
    latents = vae.encode(pictures.to_input(drawn)).latent_dist.mode()  # type: ignore[union-attr]
    return round(float(latents.mean()), 5), round(1 / float(latents.std()), 5)


@torch.no_grad()
def peak_signal_to_noise(vae: AutoencoderKL, drawn: Tensor) -> float:
    """Of pictures after a round trip, in dB."""
    x = pictures.to_input(drawn)
    found = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)  # type: ignore[union-attr]
    return float(10 * torch.log10(4 / (found - x).square().mean()))
