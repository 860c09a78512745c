"""The plan's constants against diffusers' own autoencoder, run on tensors that have a size but no content."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_the_autoencoders_peaks_are_as_planned():
    import torch
    from diffusers import AutoencoderKL
    from held_bytes import Held
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tuner.backbones.bundled import configs
    from tuner.planning.memory import DECODER_BYTES_A_PIXEL, ENCODER_BYTES_A_PIXEL

    config = {key: value for key, value in configs()["vae"].items() if not key.startswith("_")}
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        vae = AutoencoderKL.from_config(config).eval()
        pixels, latents = torch.randn(1, 3, 512, 512), torch.randn(1, 4, 64, 64)
        with Held() as encoding:
            vae.encode(pixels)
        with Held() as decoding:
            vae.decode(latents)
    assert encoding.peak / 512**2 == pytest.approx(ENCODER_BYTES_A_PIXEL, rel=0.02)
    assert DECODER_BYTES_A_PIXEL * 0.7 < decoding.peak / 512**2 <= DECODER_BYTES_A_PIXEL
