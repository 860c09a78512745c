"""LoRA files with something odd about them, made of the toybox's layer names and drawn numbers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tuner import toybox
from tuner.backbones import mmdit_layout, unet_layout
from tuner.draws import Draws
from tuner.formats.families import FAMILIES
from tuner.formats.lora import on_disk

RANK = 3


def sizes(family: str, *, text: bool = True) -> dict[tuple[str, str], tuple[int, int]]:
    """(in, out) of every layer that a LoRA of attention trains, by component and name in files."""
    if family == "sd15":
        layout = unet_layout.layout(toybox.configs("sd15"))
    else:
        layout = mmdit_layout.layout(toybox.configs("sd35"), t5_length=32)
    found = {}
    for component, own in layout.linears.items():
        for layer, size in own.items():
            attention = any(f"attn{n}.{to}" in layer for n in ("", 1, 2) for to in ("to_", "add_"))
            if attention or (text and component == "text_encoder" and "self_attn" in layer):
                found[component, on_disk(component, layer)] = size
    return found


def factors(
    family: str, seed: int = 0, rank: int = RANK, **keys: bool
) -> dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]:
    """Down and up of each layer."""
    made = {}
    for (component, layer), (width, rows) in sizes(family, **keys).items():
        down, up = (
            torch.from_numpy(Draws(seed).normal(shape, side, component, layer)).float() * 0.1
            for side, shape in (("down", (rank, width)), ("up", (rows, rank)))
        )
        made[component, layer] = (down, up)
    return made


def diffusers(pairs) -> dict[str, torch.Tensor]:
    return {
        f"{component}.{layer}.lora_{side}.weight": tensor.contiguous()
        for (component, layer), both in pairs.items()
        for side, tensor in zip("AB", both, strict=True)
    }


def kohya(pairs, alpha: float | None = None, te: str = "lora_te") -> dict[str, torch.Tensor]:
    """Of SD1.5."""
    found = {}
    for (component, layer), (down, up) in pairs.items():
        stem = FAMILIES["sd15"].names.key(component, layer).replace("lora_te_", f"{te}_")
        found[f"{stem}.lora_down.weight"], found[f"{stem}.lora_up.weight"] = down.contiguous(), up.contiguous()
        if alpha is not None:
            found[f"{stem}.alpha"] = torch.tensor(alpha)
    return found


def save(path: Path, tensors: dict[str, torch.Tensor], **metadata: object) -> Path:
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, texts or None)
    return path
