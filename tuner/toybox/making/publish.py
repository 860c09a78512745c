"""Writing trained models as the package ships them: genuine layouts, half precision, the same bytes each time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from ...formats.container import pack
from .. import words
from . import autoencoder, denoiser, judges, reader

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import nn

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    **denoiser.SCHEDULE,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""Stable Diffusion 1.5's."""
WEIGHTS = "diffusion_pytorch_model.safetensors"


def pipeline(folder: Path, unet: nn.Module, vae: nn.Module, text: nn.Module) -> None:
    """A Stable Diffusion pipeline in diffusers' layout."""
    scaling = vae.config.scaling_factor  # type: ignore[union-attr]
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", **denoiser.CONFIG})
    write_json(
        folder / "vae" / "config.json",
        {"_class_name": "AutoencoderKL", **autoencoder.CONFIG, "scaling_factor": scaling},
    )
    write_json(folder / "text_encoder" / "config.json", {**reader.config(), "torch_dtype": "float32"})
    tokenizer(folder / "tokenizer")
    write_weights(folder / "unet" / WEIGHTS, unet)
    write_weights(folder / "vae" / WEIGHTS, vae)
    write_weights(folder / "text_encoder" / "model.safetensors", text, prefix="text_model.")


def tokenizer(folder: Path) -> None:
    """The tokenizer's files."""
    for name, content in words.tokenizer_files().items():
        write_json(folder / name, content)


def judge(folder: Path, model: Any, *, reads: bool) -> None:
    """A judge in transformers' layout, with its tokenizer where it reads."""
    tree = {key: value for key, value in model.config.to_diff_dict().items() if key != "transformers_version"}
    write_json(folder / "config.json", {"architectures": [type(model).__name__], **tree, "torch_dtype": "float32"})
    kind = "CLIPImageProcessor" if reads else "BitImageProcessor"
    write_json(folder / "preprocessor_config.json", {"image_processor_type": kind, **judges.PROCESSOR})
    write_weights(folder / "model.safetensors", model)
    if reads:
        tokenizer(folder)


def write_weights(path: Path, module: nn.Module, prefix: str = "", leave: Collection[str] = ()) -> None:
    """A module in half precision; each name begins with `prefix`, and those to `leave` are left out."""
    tensors = {
        name if name.startswith(prefix) else prefix + name: value.detach().to(torch.float16).contiguous()
        for name, value in sorted(module.state_dict().items())
        if value.is_floating_point() and name not in leave
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(tensors, {"format": "pt"}))


def write_json(path: Path, content: object | Mapping[str, object]) -> None:
    """A JSON tree, or text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
