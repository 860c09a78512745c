"""Which linear layers of SD1.5's UNet and text encoder an adapter may touch, by name alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .base import Site

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_MLP = ("ff.net.0.proj", "ff.net.2")

SITES: Mapping[Site, tuple[str, ...]] = {
    "cross_attention": tuple(f"attn2.{name}" for name in _ATTENTION),
    "attention": tuple(f"{attn}.{name}" for attn in ("attn1", "attn2") for name in _ATTENTION),
    "attention_mlp": tuple(f"{attn}.{name}" for attn in ("attn1", "attn2") for name in _ATTENTION) + _MLP,
    "context_kv": ("attn2.to_k", "attn2.to_v"),
}
"""Endings of layer names. `all_linear` is not here: it is every linear layer of the transformers, see `matching`."""

TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The attention of a CLIP text encoder."""


CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "proj_in", "proj_out")
"""Convolutions of the residual blocks, between the levels, and around each transformer: all but the UNet's own first
and last, which kohya's scripts leave out, too."""


def matching(where: Site | Sequence[str], names: Iterable[str]) -> dict[str, list[str]]:
    """As `Backbone.matching`.

    `all_linear` is every linear layer inside an attention block, `proj_in` and `proj_out` included where they are
    linear (SD1.5's are 1x1 convolutions); the time embeddings, which every residual block shares, are left out.
    """
    known = list(names)
    if where == "all_linear":
        return {"all_linear": [name for name in known if "attentions" in name.split(".")]}
    if isinstance(where, str):
        endings = SITES[cast("Site", where)]
        return {where: [name for name in known if any(ends(name, ending) for ending in endings)]}
    return {pattern: [name for name in known if ends(name, pattern)] for pattern in where}


def matching_text(names: Iterable[str]) -> list[str]:
    return [name for name in names if any(ends(name, ending) for ending in TEXT)]


def convolutions(names: Iterable[str]) -> list[str]:
    """As `Backbone.convolutions`."""
    return [name for name in names if any(ends(name, ending) for ending in CONVOLUTIONS)]


def ends(name: str, pattern: str) -> bool:
    """Whether a name is the pattern or ends with it at a dot: `to_k` ends `attn2.to_k`, but not `add_to_k`."""
    return name == pattern or name.endswith("." + pattern)
