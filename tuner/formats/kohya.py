"""The key names of kohya's sd-scripts: a layer's own name, with `_` for its dots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

WORDS = (
    *("down_blocks", "up_blocks", "mid_block", "transformer_blocks", "proj_in", "proj_out", "to_q", "to_k", "to_v"),
    *("to_out", "text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "time_embedding", "linear_1"),
    *("linear_2", "time_emb_proj", "text_projection", "conv_shortcut", "conv_in", "conv_out"),
)
"""Parts of layer names that hold a `_` of their own."""

_WORD = re.compile(f"({'|'.join(WORDS)}|[^_]+)(?:_|$)")


@dataclass(frozen=True, slots=True)
class Names:
    """kohya's names of the layers of one family."""

    prefixes: Mapping[str, str]
    """By diffusers' component name."""

    def key(self, component: str, layer: str) -> str | None:
        """`unet`, `mid_block.attentions.0...to_q` -> `lora_unet_mid_block_attentions_0_..._to_q`.

        Several layers may share a key (`layers`); None where the layer has no name there.
        """
        if component not in self.prefixes:
            return None
        own = self.original(layer) if component in ("unet", "transformer") else layer
        return None if own is None else f"{self.prefixes[component]}_{own.replace('.', '_')}"

    def layers(self, key: str) -> tuple[str, tuple[str, ...]] | None:
        """The component and layers that a key stands for, in the order in which they are stacked; None: no such."""
        for component, prefix in self.prefixes.items():
            if key.startswith(f"{prefix}_"):
                rest = key.removeprefix(f"{prefix}_")
                found = self.restored(rest) if component in ("unet", "transformer") else dotted(rest)
                return (component, found) if found else None
        return None

    def original(self, layer: str) -> str | None:
        """A denoiser layer's name in the model that kohya's scripts train; here diffusers' own."""
        return layer

    def restored(self, rest: str) -> tuple[str, ...]:
        """Inverse of `original`, from a name with `_` for its dots; empty where there is no such layer."""
        return dotted(rest)

    def swaps(self, layer: str, rows: int, columns: int) -> bool:
        """Whether a layer of (rows, columns) has the two halves of its rows the other way round than in diffusers."""
        return False


def dotted(rest: str) -> tuple[str, ...]:
    """`text_model_encoder_layers_0_self_attn_q_proj` -> `text_model.encoder.layers.0.self_attn.q_proj`."""
    return (".".join(match[1] for match in _WORD.finditer(rest)),)


def tensors(
    factors: Mapping[str, Sequence[Tensor]],
    *,
    alpha: float | Mapping[str, float],
    norms: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Factors (down, up) by key as a file's tensors.

    Readers multiply up @ down by alpha / rank; alpha stays float32, since half precision would round it.

    Args:
        factors: by key.
        alpha: of every key, or by key.
        norms: of those that are DoRAs, in the shape of LyCORIS' `dora_scale`.
    """
    import torch

    named = {}
    for name, (down, up) in factors.items():
        named[f"{name}.lora_down.weight"] = down
        named[f"{name}.lora_up.weight"] = up
        value = alpha if isinstance(alpha, float | int) else alpha[name]
        named[f"{name}.alpha"] = torch.tensor(value, dtype=torch.float32)
        if norms and name in norms:
            named[f"{name}.dora_scale"] = norms[name]
    return named
