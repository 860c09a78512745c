"""The toybox's Stable Diffusion 1.5, from nothing to the files that ship."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import toybox
from . import autoencoder, decoder, denoiser, publish, reader

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import CLIPTokenizer


def make(state: Path, words: CLIPTokenizer) -> None:
    """Train each part from its newest state and publish the model."""
    vae = autoencoder.train(state / "vae")
    text = reader.train(state / "reader", words)
    unet, text = denoiser.train(state / "denoiser", vae, text, words)
    vae = decoder.train(state / "decoder", vae)
    publish.pipeline(toybox.folder("sd15"), unet, vae, text)
