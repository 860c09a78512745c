"""Writing the toybox's Stable Diffusion 3.5 as the package ships it: diffusers' layout, half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import pieces, words
from . import sd35_parts
from .publish import WEIGHTS, write_json, write_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def pipeline(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """A Stable Diffusion 3 pipeline; modules by diffusers' component name."""
    factors = {key: modules["vae"].config[key] for key in ("scaling_factor", "shift_factor")}  # type: ignore[index]
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", sd35_parts.SCHEDULER)
    _diffusers(folder / "transformer", "SD3Transformer2DModel", sd35_parts.TRANSFORMER, modules["transformer"])
    _diffusers(folder / "vae", "AutoencoderKL", {**sd35_parts.VAE, **factors}, modules["vae"])
    tokenizers(folder)
    for name, config in {**sd35_parts.CLIPS, "text_encoder_3": sd35_parts.T5}.items():
        write_json(folder / name / "config.json", {**config, "torch_dtype": "float32"})
        # T5's table of words has two names; its files hold it under the first
        write_weights(folder / name / "model.safetensors", modules[name], leave=("encoder.embed_tokens.weight",))


def tokenizers(folder: Path) -> None:
    """The files of all three tokenizers."""
    for name, pad in sd35_parts.PADS.items():
        for file, content in words.tokenizer_files(sd35_parts.CLIP_LENGTH, pad).items():
            write_json(folder / name.replace("text_encoder", "tokenizer") / file, content)
    for file, content in pieces.tokenizer_files().items():
        write_json(folder / "tokenizer_3" / file, content)


def _diffusers(folder: Path, kind: str, config: Mapping[str, object], module: nn.Module) -> None:
    write_json(folder / "config.json", {"_class_name": kind, "_diffusers_version": "0.42.1", **config})
    write_weights(folder / WEIGHTS, module)
