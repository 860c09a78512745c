"""The same LoRA as other tools name it: each tool's file, made from a layer's factors by that tool's own rules."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tuner.backbones.bundled import configs as sd15_configs
from tuner.formats.compvis import unet_key
from tuner.formats.container import pack
from tuner.formats.families import FAMILIES
from tuner.formats.fusing import Update, fuse, halves_swapped

SPELLINGS = {
    "sd15": ("diffusers", "kohya", "lycoris", "comfyui", "original", "peft", "attention processors"),
    "sd35": ("diffusers", "kohya", "onetrainer", "lycoris", "comfyui", "original", "peft"),
}
WITH_TEXT = ("diffusers", "kohya", "onetrainer", "comfyui")
"""Those that name text encoders beside a denoiser."""


def flat(layer: str) -> str:
    return layer.replace(".", "_")


def write(path: Path, spelling: str, family: str, updates: Sequence[Update]) -> Path:
    """A file with these updates, and for peft the configuration beside it; all of one scale and rank."""
    tensors: dict[str, Tensor] = {}
    for name, endings, own in _named(spelling, family, updates):
        tensors[f"{name}{endings[0]}"], tensors[f"{name}{endings[1]}"] = own.down, own.up
        if len(endings) > 2:
            tensors[f"{name}.alpha"] = torch.tensor(own.scale * own.down.shape[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {}
    if spelling == "peft":
        rank = updates[0].down.shape[0]
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": updates[0].scale * rank, "use_rslora": False}
        path.with_name("adapter_config.json").write_text(json.dumps(config))
    if spelling in ("diffusers", "attention processors") and updates[0].scale != 1:
        raise ValueError(f"{spelling} has no alpha beside its tensors")
    path.write_bytes(pack(tensors, metadata))
    return path


def _named(spelling: str, family: str, updates: Sequence[Update]) -> Iterable[tuple[str, tuple[str, ...], Update]]:
    up_down, a_b = (".lora_down.weight", ".lora_up.weight", "alpha"), (".lora_A.weight", ".lora_B.weight")
    denoiser = FAMILIES[family].denoiser
    number = {"text_encoder": "1" if family == "sd35" else "", "text_encoder_2": "2"}
    clip = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    whole = spelling in ("kohya", "comfyui", "original") and family == "sd35"
    for update in _fused(updates) if whole else updates:
        part, layer, inside = update.component, update.layer, update.component == denoiser
        old = layer.replace(".to_", ".processor.to_").removesuffix(".0")
        original = _ldm(layer) if inside and family == "sd15" else layer
        table: Mapping[str, tuple[str, tuple[str, ...]]] = {
            "diffusers": (f"{part}.{layer}", a_b),
            "kohya": (f"lora_unet_{flat(layer)}" if inside else f"lora_te{number[part]}_{flat(layer)}", up_down)
            if inside or part in number
            else ("", ()),
            "onetrainer": (
                f"lora_transformer_{flat(layer)}" if inside else f"lora_te{number[part]}_{flat(layer)}",
                up_down,
            ),
            "lycoris": (f"lycoris_{flat(layer)}", up_down),
            "comfyui": (
                f"diffusion_model.{original}" if inside else f"text_encoders.{clip[part]}.transformer.{layer}",
                (*a_b, "alpha"),
            ),
            "original": (original, (*a_b, "alpha")),
            "peft": (f"base_model.model.{layer}", a_b),
            "attention processors": (old, ("_lora.down.weight", "_lora.up.weight")),
        }  # fmt: skip
        name, endings = table[spelling]
        yield name, endings, update


def _ldm(layer: str) -> str:
    """An SD1.5 layer's name in the original code."""
    return unet_key(f"{layer}.weight", sd15_configs()["unet"]).removesuffix(".weight")


def _fused(updates: Sequence[Update]) -> Iterable[Update]:
    """SD3's layers as the original code has them: q, k and v as one, the halves of two norms turned."""
    names = FAMILIES["sd35"].names
    groups: dict[str, dict[str, Update]] = {}
    for update in updates:
        if update.component != "transformer":
            yield update
            continue
        turned = halves_swapped(update) if _turned(update) else update
        groups.setdefault(str(names.original(update.layer)), {})[update.layer] = turned
    for name, own in groups.items():
        known = names.layers(f"lora_unet_{flat(name)}")
        assert known is not None
        yield Update("transformer", name, *fuse([own.get(layer) for layer in known[1]]))


def _turned(update: Update) -> bool:
    return FAMILIES["sd35"].names.swaps(update.layer, update.up.shape[0], update.down.shape[1])
