"""The key names of kohya's sd-scripts, which A1111, ComfyUI and InvokeAI read for Stable Diffusion 1.5."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

PREFIXES: Mapping[str, str] = {"unet": "lora_unet", "text_encoder": "lora_te"}
"""By diffusers' component name. `lora_te`, not `lora_te1`: InvokeAI reads no other for this family."""


def key(component: str, layer: str) -> str:
    """`unet`, `mid_block.attentions.0...to_q` -> `lora_unet_mid_block_attentions_0_..._to_q`."""
    return f"{PREFIXES[component]}_{layer.replace('.', '_')}"


def tensors(factors: Mapping[str, Sequence[Tensor]], *, alpha: float) -> dict[str, Tensor]:
    """Factors (down, up) by key as a file's tensors.

    Readers multiply up @ down by alpha / rank; alpha stays float32, since half precision would round it.
    """
    import torch

    named = {}
    for name, (down, up) in factors.items():
        named[f"{name}.lora_down.weight"] = down
        named[f"{name}.lora_up.weight"] = up
        named[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return named
