"""The plan's constants against diffusers' own autoencoder, run on tensors that have a size but no content."""

from __future__ import annotations

import weakref

import pytest


@pytest.mark.slow
def test_the_autoencoders_peaks_are_as_planned():
    import torch
    from diffusers import AutoencoderKL
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from tuner.backbones.bundled import configs
    from tuner.planning.memory import DECODER_BYTES_A_PIXEL, ENCODER_BYTES_A_PIXEL

    class Peak(TorchDispatchMode):
        """Bytes of every storage that an operation made and that is still alive."""

        def __init__(self):
            super().__init__()
            self.live = self.peak = 0
            self.seen = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                    self._add(tensor.untyped_storage())
            return out

        def _add(self, storage):
            key, size = storage._cdata, storage.nbytes()
            self.seen.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)

            def gone():
                self.seen.discard(key)
                self.live -= size

            weakref.finalize(storage, gone)

    config = {key: value for key, value in configs()["vae"].items() if not key.startswith("_")}
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        vae = AutoencoderKL.from_config(config).eval()
        pixels, latents = torch.randn(1, 3, 512, 512), torch.randn(1, 4, 64, 64)
        with Peak() as encoding:
            vae.encode(pixels)
        with Peak() as decoding:
            vae.decode(latents)
    assert encoding.peak / 512**2 == pytest.approx(ENCODER_BYTES_A_PIXEL, rel=0.02)
    assert DECODER_BYTES_A_PIXEL * 0.7 < decoding.peak / 512**2 <= DECODER_BYTES_A_PIXEL
