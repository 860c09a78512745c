"""A model with a LoRA that says something, and its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tuner.adapters.lora import LoRA
from tuner.draws import Draws

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from tuner.backbones import DiffusionModel
    from tuner.formats.about import About


class TrainedLoRA:
    """What a test compares with what a loader made of its files.

    Args:
        model: to put the LoRA on.
        folder: for its files, made where it is not there.
        size: standard deviation of the second factors, and of a DoRA's norms about the base's.
        lora: keys of the adapter.
    """

    def __init__(self, model: DiffusionModel, folder: Path, about: About, *, size: float, **lora: object) -> None:
        self.model, self.about, self.folder = model, about, folder
        self.lora = LoRA(**lora)
        self.attachment = self.lora.attach(model, keep_base=False, draws=Draws(7))
        for name, tensor in self.attachment.state_dict().items():
            if name.endswith("lora_B.weight"):
                tensor.copy_(size * torch.from_numpy(Draws(1).normal(tuple(tensor.shape), name)))
            elif "lora_magnitude_vector" in name:
                tensor.mul_(1 + size * torch.from_numpy(Draws(1).normal(tuple(tensor.shape), name)))
        self.state = {name: tensor.clone() for name, tensor in self.attachment.state_dict().items()}
        folder.mkdir(parents=True, exist_ok=True)
        self.files = self.attachment.export(folder, self.state, about)

    def predict(self) -> Tensor:
        """Of two latents without a prompt and with one, (2, C, h, w) float32."""
        with torch.no_grad():
            cond = self.model.encode_text(self.model.tokenize(["", self.about.prompt]))
            return self.model.denoise(*inputs(self.model.channels), cond).float()


def inputs(channels: int) -> tuple[Tensor, Tensor]:
    """Fixed x_t and timesteps."""
    side = 16 if channels == 4 else 8
    return torch.from_numpy(Draws(3).normal((2, channels, side, side), "x")), torch.tensor([700.0, 100.0])
