"""One .safetensors checkpoint in latent diffusion's original layout; what it lacks is bundled, so no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import bundled, loading
from .clip_tokenizer import make_tokenizer
from .identity import digest
from .sd15_model import COMPONENTS, SD15Model, build, component, extra, rename
from .weights import read_now

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

    from .sd15 import SD15

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}

MARKS = {
    "lora_": ("a LoRA file", "give it to `tuner generate --adapter`; here goes the model that it was made for"),
    "conditioner.embedders.": ("an SDXL checkpoint", "there is no backbone for SDXL"),
    "cond_stage_model.model.": ("a Stable Diffusion 2 checkpoint", "take one of Stable Diffusion 1.x"),
    "joint_blocks.": ("a Stable Diffusion 3 checkpoint", "take one of Stable Diffusion 1.x"),
    "double_blocks.": ("a FLUX checkpoint", "take one of Stable Diffusion 1.x"),
    "down_blocks.": ("one component in diffusers' layout", "give the whole folder that holds model_index.json"),
}
"""Parts of keys that tell what a file is instead, and what to do."""

VAE_TRAINING = ("loss.", "model_ema.")
"""What old checkpoints keep of the VAE's own training."""


def load_file(
    backbone: SD15,
    path: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    read: Collection[str] | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> SD15Model:
    """As `Backbone.load`, from a single file.

    Args:
        backbone: the part that loads it.
        path: the checkpoint.
        device: where the weights go.
        dtype: of the UNet and text encoder.
        read: as `Backbone.load`.
        configs: of the components; None takes SD1.5's own.

    Raises: DataError saying what the file is instead, or what does not fit.
    """
    if path.suffix != ".safetensors":
        raise DataError(
            f"{path}: not a .safetensors file; other formats can run code when they are read",
            "take the .safetensors version of this model",
        )
    tensors = loading.read_tensors([path])
    require_layout(path, tensors)
    trees = dict(configs or bundled.configs())
    modules = build(trees, path)
    weights = {}
    for name, module in zip(COMPONENTS, modules, strict=True):

        def own(name: str = name, expected: tuple[str, ...] = tuple(module.state_dict())) -> Mapping[str, Tensor]:
            return rename(name, convert(path, loading.read_tensors([path]), trees)[name], expected)

        weights[name] = component(name, module, own, path, dtype)
    read_now(weights, read, device)
    vocabulary, merges = bundled.clip_vocabulary()
    tokenizer = make_tokenizer(vocabulary, merges, trees["text_encoder"]["max_position_embeddings"])

    def identify(name: str) -> str:
        return digest(trees[name], [path], f"{name} {extra(backbone, name, tokenizer)}")

    scheduler, notes = noise_table(trees["scheduler"], tensors)
    model = SD15Model(backbone, modules, tokenizer, scheduler, identify, notes)
    model.weights = weights
    return model


def require_layout(path: Path, keys: Iterable[str]) -> None:
    """Raises: DataError unless the keys are those of a whole Stable Diffusion 1.x checkpoint."""
    known = list(keys)
    lacking = [name for name, prefix in PREFIXES.items() if not any(key.startswith(prefix) for key in known)]
    if not lacking:
        return
    for mark, (what, advice) in MARKS.items():
        if any(mark in key for key in known):
            raise DataError(f"{path}: this is {what}, not a whole Stable Diffusion 1.x checkpoint", advice)
    raise DataError(
        f"{path}: not a whole Stable Diffusion 1.x checkpoint: it holds no {', no '.join(lacking)}",
        "take the full checkpoint, with VAE and text encoder",
    )


def convert(
    path: Path, tensors: Mapping[str, Tensor], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of each component under diffusers' names.

    Raises: DataError where some of the UNet's or VAE's tensors have no place.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    parts: dict[str, dict[str, Tensor]] = {name: {} for name in PREFIXES}
    for key, value in tensors.items():
        for name, prefix in PREFIXES.items():
            if key.startswith(prefix) and not (name == "vae" and key.removeprefix(prefix).startswith(VAE_TRAINING)):
                parts[name][key] = value
    channels = parts["unet"].get("model.diffusion_model.input_blocks.0.0.weight")
    if channels is not None and channels.shape[1] != configs["unet"]["in_channels"]:
        raise DataError(
            f"{path}: its UNet takes {channels.shape[1]} channels: an inpainting or depth model",
            "these cannot be trained here; take the plain text-to-image model",
        )
    found = {
        "unet": convert_ldm_unet_checkpoint(parts["unet"], dict(configs["unet"])),
        "vae": convert_ldm_vae_checkpoint(parts["vae"], dict(configs["vae"])),
        "text_encoder": {
            key.removeprefix(PREFIXES["text_encoder"]): value for key, value in parts["text_encoder"].items()
        },
    }
    for name in ("unet", "vae"):
        left = len(parts[name]) - len(found[name])
        if left:
            raise DataError(
                f"{path}: {left} of {len(parts[name])} weights of its {name} have no place in Stable Diffusion 1.x",
                "this is another kind of model",
            )
    return found


def noise_table(scheduler: Mapping[str, Any], keys: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The scheduler's configuration, and what to tell; empty tensors mark v-prediction and zero-terminal SNR."""
    known, config, notes = set(keys), dict(scheduler), []
    if "v_pred" in known:
        config["prediction_type"] = "v_prediction"
        notes.append("the file says that it predicts v")
    if "ztsnr" in known:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        notes.append("the file says that its noise reaches zero signal (zero-terminal SNR)")
    if not notes:
        notes.append("a single file does not say what it predicts: epsilon is assumed; for v set objective.prediction")
    return config, notes
