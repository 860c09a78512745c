"""Pictures and latents of unit variance, through a VAE that says how it is scaled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..types import Posterior

if TYPE_CHECKING:
    import contextlib

    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from torch import Tensor


def channels(vae: AutoencoderKL) -> int:
    """C of its latents."""
    return vae.config["latent_channels"]


def factor(vae: AutoencoderKL) -> int:
    """Pixels a latent cell, along one side."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def encode(vae: AutoencoderKL, pixels: Tensor) -> Posterior:
    """(B, 3, H, W) in [-1, 1] -> the posterior of z = (latent - shift) * scale.

    Its log-variance grows by 2 log(scale).
    """
    shift, scale = _scaling(vae)
    with full_precision(pixels):
        found = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist  # type: ignore[union-attr]
    return Posterior((found.mean - shift) * scale, found.logvar + 2 * math.log(scale))


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """(B, C, h, w) of unit variance -> (B, 3, H, W) in [-1, 1]."""
    shift, scale = _scaling(vae)
    with full_precision(latents):
        return vae.decode(latents.to(vae.device, vae.dtype) / scale + shift, return_dict=False)[0]  # type: ignore[arg-type]


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Within it nothing is cast down: SD1.5's VAE overflows in 16 bit on some pictures."""
    import torch

    return torch.autocast(tensor.device.type, enabled=False)


def _scaling(vae: AutoencoderKL) -> tuple[float, float]:
    """Shift and scale; only models after SD1.5 have a shift."""
    return float(vae.config.get("shift_factor") or 0.0), float(vae.config["scaling_factor"])
