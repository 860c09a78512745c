"""A pipeline with Stable Diffusion 1.5's architecture, small, with random weights from a fixed seed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..draws import Draws
from . import words

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
"""Counts up whenever the files below would come out differently."""

SEED = 15

SPREAD = 8.0
"""Makes the random VAE's latents about 1 / scaling_factor wide, as those of a trained one are."""


def configs() -> dict[str, dict[str, Any]]:
    """The configuration of each component, by diffusers' component name."""
    pairs = words.merges()
    size = len(words.vocabulary(pairs))
    return {
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 16,
            "in_channels": 4,
            "out_channels": 4,
            "center_input_sample": False,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [32, 64, 64],
            "layers_per_block": 1,
            "downsample_padding": 1,
            "mid_block_scale_factor": 1,
            "act_fn": "silu",
            "norm_num_groups": 8,
            "norm_eps": 1e-5,
            "cross_attention_dim": 48,
            "attention_head_dim": 4,
        },
        "vae": {
            "_class_name": "AutoencoderKL",
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": [16, 32, 48],
            "layers_per_block": 1,
            "act_fn": "silu",
            "latent_channels": 4,
            "norm_num_groups": 8,
            "sample_size": 64,
            "scaling_factor": 0.18215,
        },
        "text_encoder": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "vocab_size": size,
            "hidden_size": 48,
            "intermediate_size": 96,
            "projection_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": words.LENGTH,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "bos_token_id": size - 2,
            "eos_token_id": size - 1,
            "pad_token_id": size - 1,
            "torch_dtype": "float32",
        },
        "scheduler": {
            "_class_name": "PNDMScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
            "clip_sample": False,
        },
    }


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


def write(folder: Path) -> None:
    """Write the pipeline's files into an empty folder."""
    trees = configs()
    _json(folder / "model_index.json", INDEX)
    _json(folder / "scheduler" / "scheduler_config.json", trees["scheduler"])
    for name, content in words.tokenizer_files().items():
        _json(folder / "tokenizer" / name, content)
    for component, shapes in parameter_shapes(trees).items():
        config, weights = FILES[component]
        _json(folder / component / config, trees[component])
        _weights(folder / component / weights, component, shapes)


FILES = {
    "unet": ("config.json", "diffusion_pytorch_model.safetensors"),
    "vae": ("config.json", "diffusion_pytorch_model.safetensors"),
    "text_encoder": ("config.json", "model.safetensors"),
}


def parameter_shapes(trees: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shape of every parameter by component and name, from modules without storage."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel.from_config(dict(trees["unet"])),
            "vae": AutoencoderKL.from_config(dict(trees["vae"])),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**trees["text_encoder"])),
        }
    return {name: {k: tuple(p.shape) for k, p in m.named_parameters()} for name, m in modules.items()}  # type: ignore[union-attr]


def _weights(path: Path, component: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    from safetensors.numpy import save_file

    tensors = {_published(component, name): fill(component, name, shape) for name, shape in shapes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def _published(component: str, name: str) -> str:
    """The key that published files use: those of CLIP keep the level that transformers 5 dropped."""
    plain = component != "text_encoder" or name.startswith("text_model.")
    return name if plain else f"text_model.{name}"


def fill(component: str, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values of one parameter: norms as identity, biases 0, all else normal with variance 1 / fan-in.

    Keyed by name, with numpy's Philox, so that they are the same on every machine.
    """
    import numpy as np

    if name.endswith("bias"):
        values = np.zeros(shape, np.float32)
        if (component, name) == ("vae", "quant_conv.bias"):
            values[shape[0] // 2 :] = -8.0  # the log-variance: a VAE's posterior is narrow
        return values
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    fan_in = 1 if "embedding.weight" in name else int(np.prod(shape[1:]))
    values = Draws(SEED).normal(shape, "toybox", component, name.removeprefix("text_model.")) / np.float32(
        np.sqrt(fan_in)
    )
    if (component, name) == ("vae", "quant_conv.weight"):
        values[: shape[0] // 2] *= SPREAD
        values[shape[0] // 2 :] *= 0.1
    if (component, name) == ("vae", "post_quant_conv.weight"):
        values /= SPREAD
    return values


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")
