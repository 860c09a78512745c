"""What the world's files say and need that depends on the family of the base: a table, one record a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kohya import Names
from .kohya_sd3 import JointNames

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Family:
    """A family of base models, as file formats and other tools name it."""

    label: str
    """Its name for people."""
    denoiser: str
    """diffusers' component name of what is trained."""
    names: Names
    """kohya's key names."""
    kohya_in_diffusers: bool
    """Whether diffusers reads kohya's keys; where it does not, it passes over them with no more than a warning."""
    network_module: str
    """The module of sd-scripts that reads kohya's keys of this family."""
    version: str
    """`ss_base_model_version` as sd-scripts writes it."""
    architecture: str
    """modelspec's name of a LoRA for it."""
    sidecar: str
    """A1111's name of the family."""
    tag: str
    """The Hub's tag."""
    pipeline: str
    """diffusers' pipeline."""
    half: str
    """The 16-bit type that its pipelines run in."""
    side: int
    """Width and height in pixels that the base draws where nothing else is said."""
    word_keys: Mapping[str, str]
    """By text encoder, the key of a new word's vectors in a file; empty where the key is the word itself."""


FAMILIES: Mapping[str, Family] = {
    "sd15": Family(
        label="Stable Diffusion 1",
        denoiser="unet",
        # `lora_te`, not `lora_te1`: InvokeAI reads no other for this family
        names=Names({"unet": "lora_unet", "text_encoder": "lora_te"}),
        kohya_in_diffusers=True,
        network_module="networks.lora",
        version="sd_v1",
        architecture="stable-diffusion-v1/lora",
        sidecar="SD1",
        tag="stable-diffusion",
        pipeline="StableDiffusionPipeline",
        half="float16",
        side=512,
        word_keys={"text_encoder": ""},
    ),
    "sd35": Family(
        label="Stable Diffusion 3",
        denoiser="transformer",
        names=JointNames({"transformer": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}),
        kohya_in_diffusers=False,
        network_module="networks.lora_sd3",
        version="sd3",
        architecture="stable-diffusion-3/lora",
        sidecar="SD3",
        tag="sd3",
        pipeline="StableDiffusion3Pipeline",
        half="bfloat16",
        side=1024,
        # as ComfyUI looks them up; it takes the first tensor where it finds none of these names
        word_keys={"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    ),
}
"""By backbone."""
