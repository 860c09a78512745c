"""Whole models as one file in their makers' own layout, which A1111 and ComfyUI read: a record a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import compvis, mmdit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from .container import Pieces

    Components = Mapping[str, Mapping[str, Tensor]]
    Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Original:
    """How a family's whole models are written as one file, and read."""

    needs: tuple[str, ...]
    """Components that are in the file whether or not they were trained."""
    pieces: Callable[[Components, Configs], dict[str, Pieces]]
    """The file's tensors, from those of the components under diffusers' names."""
    read: Callable[[Path, Configs], Components]
    """The components that tuner's own reader finds in such a file."""
    architecture: str
    """modelspec's name of it."""
    folders: Mapping[str, str]
    """By tool, where such a file goes."""


def _read_sd15(path: Path, configs: Configs) -> Components:
    from ..backbones.loading import read_tensors
    from ..backbones.single_file import convert

    return convert(path, read_tensors([path]), configs)


def _read_sd35(path: Path, _configs: Configs) -> Components:
    from ..backbones.sd35_single_file import read_transformer

    return {"transformer": read_transformer(path)[1]}


ORIGINALS: Mapping[str, Original] = {
    "sd15": Original(
        needs=("unet", "vae", "text_encoder"),
        pieces=compvis.pieces,
        read=_read_sd15,
        architecture="stable-diffusion-v1",
        folders={
            "AUTOMATIC1111, Forge": "models/Stable-diffusion",
            "ComfyUI": "models/checkpoints",
            "InvokeAI": "its model manager",
        },
    ),
    "sd35": Original(
        needs=("transformer", "vae"),
        pieces=mmdit.pieces,
        read=_read_sd35,
        architecture="stable-diffusion-3",
        folders={"ComfyUI": "models/checkpoints"},
    ),
}
"""By backbone."""
