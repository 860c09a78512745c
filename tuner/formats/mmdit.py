"""Names in the original layout of Stable Diffusion 3 and 3.5 (Stability-AI/sd3-ref, mmditx.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .compvis import UNET, text_key, vae_pieces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .container import Pieces

OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
INNER = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
"""Layers that the original holds as one, query above key above value."""
ENCODERS = {"text_encoder": "text_encoders.clip_l.transformer.", "text_encoder_2": "text_encoders.clip_g.transformer."}
"""Prefixes in the files that hold text encoders, too."""


def transformer_pieces(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Pieces]:
    """The transformer's tensors under their original names."""
    last = f"transformer_blocks.{config['num_layers'] - 1}.norm1_context.linear"
    found: dict[str, Pieces] = {}
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if name == "pos_embed.pos_embed":
            found["pos_embed"] = (value,)
        elif layer in OUTER:
            # An adaptive norm that ends a stream is shift above scale there, scale above shift here.
            found[f"{OUTER[layer]}.{leaf}"] = _halves_swapped(value) if layer == "norm_out.linear" else (value,)
        else:
            index, inner = layer.removeprefix("transformer_blocks.").split(".", 1)
            if inner in INNER:
                ends = layer == last
                found[f"joint_blocks.{index}.{INNER[inner]}.{leaf}"] = _halves_swapped(value) if ends else (value,)
    for index in range(config["num_layers"]):
        for theirs, ours in FUSED.items():
            for leaf in ("weight", "bias"):
                parts = [tensors.get(f"transformer_blocks.{index}.{layer}.{leaf}") for layer in ours]
                if parts[0] is not None:
                    found[f"joint_blocks.{index}.{theirs}.{leaf}"] = [part for part in parts if part is not None]
    return found


def _halves_swapped(value: Tensor) -> Pieces:
    first, second = value.chunk(2)
    return second, first


def pieces(
    components: Mapping[str, Mapping[str, Tensor]], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Pieces]:
    """A checkpoint from `transformer` and `vae`, and the CLIPs where `components` has them."""
    own = transformer_pieces(components["transformer"], configs["transformer"])
    found: dict[str, Pieces] = {UNET + name: value for name, value in own.items()}
    found |= vae_pieces(components["vae"], configs["vae"])
    for name, prefix in ENCODERS.items():
        found |= {prefix + text_key(key): (value,) for key, value in components.get(name, {}).items()}
    return found
