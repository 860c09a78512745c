"""DoRA (Liu et al. 2024): a weight's norms and its direction, which a LoRA turns.

With V = W + s B A and n(V) its norms, detached as section 4.3 of the paper says, the weight is m * V / n(V). peft takes
a norm for each output (a row of W); here is the one for each input (a column), which the paper writes and LyCORIS,
OneTrainer and the web UIs read. At strength k the weight is W + k (m V / n(V) - W), as in ComfyUI.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from peft.tuners.lora.layer import LoraLayer


class InputNorms(nn.Module):
    """The norms of an `input` DoRA, (in,)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class InputDoRA(LoraVariant):
    """What peft asks of a kind of LoRA layer."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """The layer's output with the DoRA, from the base's `result`: x keeps its share by g = m / n(V) of each input.

        W (g x) - W x + s B A (g x) is added, in which x is dropped out in training, as peft does.
        """
        x = module.lora_dropout[active_adapter](x)
        base = module.get_base_layer()
        with torch.no_grad(), _without_autocast(x.device):
            turned = input_norms(base.weight.float() + delta(module, active_adapter))
        share = module.lora_magnitude_vector[active_adapter].weight / turned
        share = share.view(1, -1, 1, 1) if isinstance(base, nn.Conv2d) else share
        added = _linearly(base, (share - 1) * x)
        lora_a, lora_b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        return result + added + lora_b(lora_a(share * x)) * module.scaling[active_adapter]

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight with the DoRA merged into it."""
        with module._unmerged_base_weight() as base:
            direction = base.float() + delta(module, active_adapter)
            own = module.lora_magnitude_vector[active_adapter].weight / input_norms(direction)
            change = direction * own.view(1, -1, *[1] * (direction.ndim - 2)) - base.float()
        module._cache_store(f"{active_adapter}-change", change.detach())
        return (orig_weight.float() + change).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        orig_weight.data = InputDoRA.merge_safe(module, active_adapter, orig_weight.data)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        change = module._cache_pop(f"{active_adapter}-change")
        return (orig_weight.data.float() - change).to(orig_weight.dtype)


class AtStrength(LoraVariant):
    """Another variant whose whole change acts at a strength; 0 is the base, bit for bit."""

    def __init__(self, inner: LoraVariant, strength: float) -> None:
        self.inner, self.strength = inner, strength

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:  # type: ignore[override]
        if self.strength == 0:
            return result
        full = self.inner.forward(module, active_adapter=active_adapter, x=x, result=result, **kwargs)
        return full if self.strength == 1 else result + self.strength * (full - result)

    def merge_safe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:  # type: ignore[override]
        change = self.strength * (self.inner.merge_safe(module, active_adapter, orig_weight.clone()) - orig_weight)
        module._cache_store(f"{active_adapter}-change", change.detach())
        return orig_weight + change

    def merge_unsafe(self, module: Any, active_adapter: str, orig_weight: Tensor) -> None:  # type: ignore[override]
        orig_weight.data = self.merge_safe(module, active_adapter, orig_weight.data)

    def unmerge(self, module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:  # type: ignore[override]
        return orig_weight.data - module._cache_pop(f"{active_adapter}-change")


def put_input_norms(layer: Any, adapter: str, values: Tensor | None = None) -> None:
    """Make one of peft's plain LoRA layers an `input` DoRA.

    Args:
        layer: with the adapter.
        adapter: its name.
        values: the norms, (in,); None takes the base's.
    """
    base = layer.get_base_layer().weight
    own = input_norms(base.detach().float()) if values is None else values.to(base.device).float()
    layer.lora_magnitude_vector[adapter] = InputNorms(own)
    layer.lora_variant[adapter] = InputDoRA()


def input_norms(weight: Tensor) -> Tensor:
    """Of (out, in) or (out, in, height, width): the norm over everything but the inputs, (in,)."""
    return weight.transpose(0, 1).flatten(1).norm(dim=1)


def norms(layer: Any, adapter: str) -> Tensor:
    """The base's norms as the layer's own kind of DoRA takes them, float32 in that kind's shape."""
    base = layer.get_base_layer().weight.detach().float()
    kind = layer.lora_magnitude_vector[adapter]
    if isinstance(kind, InputNorms):
        return input_norms(base)
    return kind.get_weight_norm(base, torch.zeros_like(base), layer.scaling[adapter])


def delta(layer: LoraLayer, adapter: str) -> Tensor:
    """S B A in the weight's shape, float32."""
    up, down = (factor[adapter].weight.float().flatten(1) for factor in (layer.lora_B, layer.lora_A))  # type: ignore[union-attr]
    return (layer.scaling[adapter] * (up @ down)).view(layer.get_base_layer().weight.shape)


def _without_autocast(device: torch.device) -> AbstractContextManager[None]:
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()  # type: ignore[return-value]


def _linearly(base: nn.Module, x: Tensor) -> Tensor:
    """The layer without its bias."""
    if isinstance(base, nn.Conv2d):
        return functional.conv2d(
            x, base.weight.to(x.dtype), None, base.stride, base.padding, base.dilation, base.groups
        )
    return functional.linear(x, base.weight.to(x.dtype))  # type: ignore[attr-defined]
