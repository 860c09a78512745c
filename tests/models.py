"""Models that tests load."""

from __future__ import annotations

from pathlib import Path


def load_sd15(model: str | Path, **keys: object):
    """The model that a recipe's backbone section describes, in float32 on the CPU."""
    import torch

    from tuner.backbones import Backbone

    backbone = Backbone.read({"name": "sd15", "model": str(model), **keys})
    return backbone.load(device=torch.device("cpu"), dtype=torch.float32)
