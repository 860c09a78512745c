"""The names of SD3's layers in the original code (Stability-AI/sd3-ref), which kohya's keys for SD3 are made of.

There the query, key and value of a stream are one layer, `qkv`, with the rows of the three stacked in this order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kohya import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK: Mapping[str, tuple[str, ...]] = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
"""Within a block, the original layer -> diffusers' layers."""
_SHARED: Mapping[str, tuple[str, ...]] = {
    "context_embedder": ("context_embedder",),
    "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
    "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
"""Outside of the blocks."""

_ORIGINAL = {layer: name for table in (_BLOCK, _SHARED) for name, layers in table.items() for layer in layers}
_RESTORED = {name.replace(".", "_"): layers for table in (_BLOCK, _SHARED) for name, layers in table.items()}
_IN_DIFFUSERS = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
_IN_KOHYA = re.compile(r"joint_blocks_(\d+)_(.+)")
_SWAPPED = re.compile(r"norm_out\.linear|transformer_blocks\.\d+\.norm1_context\.linear")


@dataclass(frozen=True, slots=True)
class JointNames(Names):
    """kohya's names of SD3 and SD3.5."""

    def original(self, layer: str) -> str | None:
        inside = _IN_DIFFUSERS.fullmatch(layer)
        if inside is None:
            return _ORIGINAL.get(layer) if layer in _shared() else None
        name = _ORIGINAL.get(inside[2]) if inside[2] not in _shared() else None
        return None if name is None else f"joint_blocks.{inside[1]}.{name}"

    def restored(self, rest: str) -> tuple[str, ...]:
        inside = _IN_KOHYA.fullmatch(rest)
        if inside is None:
            found = _RESTORED.get(rest, ())
            return found if set(found) <= _shared() else ()
        found = _RESTORED.get(inside[2], ())
        return () if set(found) & _shared() else tuple(f"transformer_blocks.{inside[1]}.{layer}" for layer in found)

    def swaps(self, layer: str, rows: int, columns: int) -> bool:
        """Of an adaptive norm that ends a stream, which has two outputs: shift and scale, in diffusers scale and shift.

        The text's stream ends in the last block, where this norm has 2 outputs a channel in place of 6.
        """
        return rows == 2 * columns and _SWAPPED.fullmatch(layer) is not None


def _shared() -> frozenset[str]:
    return frozenset(layer for layers in _SHARED.values() for layer in layers)
