"""Names in the original layout of Stable Diffusion 1.x, that of latent diffusion (Rombach et al. 2022)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .container import Pieces

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."

OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_key(name: str, config: Mapping[str, Any]) -> str:
    """A tensor of diffusers' UNet under its original name, without prefix.

    The original counts its blocks through all levels: one for each pair of residual block and attention, and one for
    each change of size on the way down; on the way up a change of size belongs to the block before it.
    """
    layer, _, leaf = name.rpartition(".")
    if layer in OUTER:
        return f"{OUTER[layer]}.{leaf}"
    kind, *rest = layer.split(".")
    each = config["layers_per_block"] + 1
    if kind == "mid_block":
        part, index, *inner = rest
        place = "middle_block.1" if part == "attentions" else f"middle_block.{2 * int(index)}"
        return ".".join([place, *_inner(part, inner), leaf])
    level, part, index, *inner = rest
    if part == "downsamplers":
        return f"input_blocks.{(int(level) + 1) * each}.0.op.{leaf}"
    if part == "upsamplers":
        behind = 2 if config["up_block_types"][int(level)].startswith("CrossAttn") else 1
        return f"output_blocks.{int(level) * each + each - 1}.{behind}.conv.{leaf}"
    number = int(level) * each + int(index)
    block = f"input_blocks.{number + 1}" if kind == "down_blocks" else f"output_blocks.{number}"
    return ".".join([block, "1" if part == "attentions" else "0", *_inner(part, inner), leaf])


def _inner(part: str, inner: list[str]) -> list[str]:
    return inner if part == "attentions" else [RESNET[inner[0]]]


def vae_key(name: str, config: Mapping[str, Any]) -> str:
    """A tensor of diffusers' VAE under its original name, without prefix; the decoder's levels count the other way."""
    last = len(config["block_out_channels"]) - 1
    name = re.sub(r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    for ours, theirs in (("resnets", "block"), ("upsamplers", "upsample")):
        name = re.sub(
            rf"^decoder\.up_blocks\.(\d+)\.{ours}\.(\d+)",
            lambda m, theirs=theirs: (
                f"decoder.up.{last - int(m[1])}.{theirs}" + (f".{m[2]}" if theirs == "block" else "")
            ),
            name,
        )
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for ours, theirs in VAE_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def vae_pieces(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Pieces]:
    """The whole VAE; its attention's matrices are 1x1 convolutions there."""
    return {
        VAE + vae_key(name, config): (value[:, :, None, None],)
        if ".attentions." in name and value.ndim == 2
        else (value,)
        for name, value in tensors.items()
    }


def text_key(name: str) -> str:
    """A tensor of a CLIP text encoder as files spell it; transformers 5 dropped the outer level of CLIPTextModel."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def pieces(
    components: Mapping[str, Mapping[str, Tensor]], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Pieces]:
    """A whole checkpoint from `unet`, `vae` and `text_encoder`."""
    unet = {UNET + unet_key(name, configs["unet"]): (value,) for name, value in components["unet"].items()}
    text = {TEXT + text_key(name): (value,) for name, value in components["text_encoder"].items()}
    return {**unet, **vae_pieces(components["vae"], configs["vae"]), **text}
