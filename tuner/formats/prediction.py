"""The fixed input on which a saved adapter must predict as the trained one does."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..backbones.base import device_of
from ..draws import Draws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ..backbones import DiffusionModel

PROMPTS = ("", "a photo of sks dog, 3 blue cups on a table")
SIDE = 16
"""Latent side of the fixed input; SD1.5's deepest block still sees more than one place, so its attention counts."""


def predict(model: DiffusionModel) -> Tensor:
    """The prediction on a fixed input, (2, C, h, w) float32 on the CPU; its noise is its own."""
    import torch

    noise = Draws(0).normal((len(PROMPTS), model.channels, SIDE, SIDE), "verify_noise")
    device = device_of(model.denoiser)
    with torch.no_grad():
        cond = model.read(PROMPTS, device)
        out = model.denoise(torch.from_numpy(noise).to(device), torch.tensor([801.0, 201.0], device=device), cond)
    return out.float().cpu()


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Within it global random numbers may be drawn (peft initialises what it then overwrites); after it none were."""
    import random

    import numpy as np
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
