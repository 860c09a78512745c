"""Which linear layers of SD3.5's transformer and text encoders an adapter may touch, by name alone.

A joint block (Esser et al. 2024, fig. 2b) has two streams. The picture's goes through `attn.to_*` and `ff`, the text's
through `attn.add_*`, `attn.to_add_out` and `ff_context`; MMDiT-X gives the picture a second attention of its own,
`attn2`, in its first blocks. The last block puts out no text: it has no `to_add_out` and no `ff_context`, and the query
of its text (`add_q_proj`) reaches no output, so an adapter there stays as it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .sd15_sites import TEXT, ends

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .base import Site

_IMAGE = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj")
_ATTENTION = (*(f"attn.{name}" for name in (*_IMAGE, *_TEXT, "to_add_out")), *(f"attn2.{name}" for name in _IMAGE))
_MLP = tuple(f"{stream}.{layer}" for stream in ("ff", "ff_context") for layer in ("net.0.proj", "net.2"))

SITES: Mapping[Site, tuple[str, ...]] = {
    "cross_attention": tuple(f"attn.{name}" for name in _TEXT),
    "attention": _ATTENTION,
    "attention_mlp": _ATTENTION + _MLP,
    "context_kv": ("attn.add_k_proj", "attn.add_v_proj"),
}
"""Endings of layer names. There is no cross-attention here: the text's projections into the joint attention stand for
it. `all_linear` is every linear layer of the blocks, see `matching`."""

STREAMS: Mapping[str, tuple[str, ...]] = {
    "image_stream": (
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")),
        *("attn2", "ff", "norm1", "pos_embed.proj", "norm_out", "proj_out"),
    ),
    "text_stream": (
        *(f"attn.{name}" for name in (*_TEXT, "to_add_out", "norm_added_q", "norm_added_k")),
        *("ff_context", "norm1_context", "context_embedder"),
    ),
}
"""Each stream's own weights, as patterns of layer names; the embedding of time and pooled text belongs to both."""

T5_PARTS = ("text_encoder_3", "SelfAttention", "DenseReluDense")
"""Parts of names that only T5's layers have."""


def matching(where: Site | Sequence[str], names: Iterable[str]) -> dict[str, list[str]]:
    """As `Backbone.matching`.

    `all_linear` is every linear layer of the blocks, those of the adaptive norms included; the embedders and the output
    layer, which all blocks share, are left out.
    """
    known = list(names)
    if where == "all_linear":
        return {"all_linear": [name for name in known if name.startswith("transformer_blocks.")]}
    if isinstance(where, str):
        endings = SITES[cast("Site", where)]
        return {where: [name for name in known if any(ends(name, ending) for ending in endings)]}
    return {pattern: [name for name in known if ends(name, pattern)] for pattern in where}


def matching_text(names: Iterable[str]) -> list[str]:
    """The attention of a CLIP; T5 names its layers otherwise, so none of its layers is ever in the answer."""
    return [name for name in names if any(ends(name, ending) for ending in TEXT)]


def names_t5(pattern: str) -> bool:
    """Whether a pattern can only mean layers of T5."""
    return any(part in pattern.split(".") for part in T5_PARTS)
