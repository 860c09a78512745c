"""The transformer of Stable Diffusion 3.5 from one .safetensors file in its original layout."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import loading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

PREFIX = "model.diffusion_model."
"""Before each of the transformer's keys, in most files."""

HOMES = {
    "large": "stabilityai/stable-diffusion-3.5-large",
    "medium": "stabilityai/stable-diffusion-3.5-medium",
    "sd3_medium": "stabilityai/stable-diffusion-3-medium-diffusers",
}
"""Where VAE and text encoders of the published models are."""

MARKS = {
    "lora_": ("a LoRA file", "give it to `tuner generate --adapter`; here goes the model that it was made for"),
    "transformer_blocks.": ("one component in diffusers' layout", "give the whole folder that holds model_index.json"),
    "double_blocks.": ("a FLUX checkpoint", "there is no backbone for FLUX"),
    "conditioner.embedders.": ("an SDXL checkpoint", "there is no backbone for SDXL"),
    "input_blocks.": ("a checkpoint with a UNet", "take the backbone sd15 for Stable Diffusion 1.x"),
}
"""Parts of keys that tell what a file is instead, and what to do."""


def read_transformer(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of the transformer, under diffusers' names.

    Raises: DataError saying what the file is instead, or what has no place.
    """
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    _require_safetensors(path)
    tensors = loading.read_tensors([path])
    own = _own(path, tensors)
    config = _config(path, {key: tuple(value.shape) for key, value in own.items()})
    try:
        found = convert_sd3_transformer_checkpoint_to_diffusers(own)  # it takes out of `own` what it finds
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise DataError(
            f"{path}: a weight of the transformer is missing: {error}", "download this file again"
        ) from error
    if own:
        raise DataError(
            f"{path}: {len(own)} weights of its transformer have no place in SD3.5, such as {min(own)}",
            "this is another kind of model",
        )
    return config, found


def read_config(path: Path) -> dict[str, Any]:
    """Configuration of the transformer, from the file's header alone. Raises: DataError."""
    from ..formats.container import read_header

    _require_safetensors(path)
    header = read_header(path)
    return _config(path, _own(path, {name: tuple(entry.shape) for name, entry in header.tensors.items()}))


def default_components(path: Path, config: Mapping[str, Any]) -> str:
    """The Hub id that the rest of the model comes from. Raises: DataError where the file is of no published size."""
    from .mmdit_layout import configs

    parts = ("num_layers", "num_attention_heads", "dual_attention_layers", "qk_norm")
    for size, home in HOMES.items():
        published = configs(size)["transformer"]  # type: ignore[arg-type]
        if all(config[part] == published[part] for part in parts):
            return home
    raise DataError(
        f"{path}: holds a transformer of {config['num_layers']} blocks, which is no published size",
        "name the folder or Hub id of its VAE and text encoders in backbone.components",
    )


def _require_safetensors(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise DataError(
            f"{path}: not a .safetensors file; other formats can run code when they are read",
            "take the .safetensors version of this model",
        )


def _own(path: Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The transformer's entries without their prefix. Raises: DataError where there is no such transformer."""
    prefix = PREFIX if any(key.startswith(PREFIX) for key in entries) else ""
    own = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
    if not any(key.startswith("joint_blocks.") for key in own):
        raise _otherwise(path, entries)
    return own


def _otherwise(path: Path, keys: Iterable[str]) -> DataError:
    known = list(keys)
    for mark, (what, advice) in MARKS.items():
        if any(mark in key for key in known):
            return DataError(f"{path}: this is {what}, not a Stable Diffusion 3 checkpoint", advice)
    return DataError(
        f"{path}: not a Stable Diffusion 3 checkpoint: it has no joint blocks", "take the file of SD3.5 or SD3"
    )


def _config(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The configuration that tensors of these shapes have.

    Raises: DataError where one of those that tell is missing or misshapen.
    """
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        blocks = {int(key.split(".")[1]) for key in shapes if key.startswith("joint_blocks.")}
        dual = {int(key.split(".")[1]) for key in shapes if ".x_block.attn2.qkv.weight" in key}
        normed = "joint_blocks.0.x_block.attn.ln_q.weight" in shapes
        head = shapes["joint_blocks.0.x_block.attn.ln_q.weight"][0] if normed else 64  # 64 in every published model
        return {
            "_class_name": "SD3Transformer2DModel",
            "attention_head_dim": head,
            "caption_projection_dim": shapes["context_embedder.weight"][0],
            "dual_attention_layers": sorted(dual),
            "in_channels": channels,
            "joint_attention_dim": shapes["context_embedder.weight"][1],
            "num_attention_heads": width // head,
            "num_layers": max(blocks) + 1,
            "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
            "patch_size": patch,
            "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
            "pos_embed_max_size": isqrt(shapes["pos_embed"][1]),
            "qk_norm": "rms_norm" if normed else None,
            "sample_size": 128,
        }
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: a weight that tells its size is missing or misshapen: {error}", "download it again"
        ) from error
