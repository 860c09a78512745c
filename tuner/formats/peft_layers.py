"""peft's layers on a model: those of LoHa and LoKr put there and filled, any of them found, switched on, taken off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from .lycoris_shapes import Method


def inject(module: Any, layers: Sequence[str], method: Method, name: str, rank_dropout: float = 0.0) -> dict[str, Any]:
    """Put the adapter `name` onto layers, with factors that `fill` replaces.

    Args:
        module: a model of diffusers or transformers.
        layers: full names of linear layers or convolutions.

    Returns: peft's layers by these names.
    """
    from peft import LoHaConfig, LoKrConfig

    from .loaders import quiet_loaders
    from .prediction import undrawn

    common: dict[str, Any] = {"r": 1, "alpha": 1, "rank_dropout": rank_dropout, "target_modules": list(layers)}
    config = LoHaConfig(**common) if method == "loha" else LoKrConfig(**common, rank_dropout_scale=True)
    with undrawn(), quiet_loaders():  # peft draws from the global generator, and warns of a second adapter
        module.add_adapter(config, adapter_name=name)
    return {layer: module.get_submodule(layer) for layer in layers}


def fill(
    layer: Any, name: str, factors: Mapping[str, Tensor], scale: float, *, trains: bool = False
) -> dict[str, nn.Parameter]:
    """Give a layer's adapter these factors in place of its own.

    Args:
        factors: by LyCORIS' names, in the dtype to keep them in; moved to the layer's device.
        scale: by which their product is multiplied at strength 1.
        trains: whether they take gradients.
    """
    from torch import nn

    device = layer.get_base_layer().weight.device
    filled = {}
    for leaf in layer.adapter_layer_names:
        if name in (own := getattr(layer, leaf)):
            del own[name]
        if leaf in factors:
            filled[leaf] = own[name] = nn.Parameter(factors[leaf].to(device), requires_grad=trains)
    layer.r[name], layer.alpha[name], layer.scaling[name] = 1, scale, scale
    return filled


def lycoris_layers(module: nn.Module, name: str) -> dict[str, Any]:
    """The layers of a module that hold the LoHa or LoKr `name`, by the names that they have without any adapter."""
    from peft.tuners.lycoris_utils import LycorisLayer

    return {
        plain(layer): part
        for layer, part in module.named_modules()
        if isinstance(part, LycorisLayer) and name in part.scaling
    }


def plain(layer: str) -> str:
    """A layer's name without the wrappers that peft puts around it."""
    return ".".join(part for part in layer.split(".") if part != "base_layer")


def active(module: nn.Module) -> list[str]:
    """The adapters that are switched on in any layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = [name for part in module.modules() if isinstance(part, BaseTunerLayer) for name in part.active_adapters]
    return list(dict.fromkeys(names))


def activate(module: nn.Module, names: list[str]) -> None:
    """Switch these adapters on in every layer, and no others."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part in module.modules():
        if isinstance(part, BaseTunerLayer):
            part.set_adapter(names, inference_mode=True)


def remove(module: nn.Module, name: str) -> None:
    """Take an adapter off; with the last one, every layer is the base's own again."""
    from diffusers.utils.peft_utils import delete_adapter_layers

    from .shadow import strip_adapters

    if name in vars(module).get("peft_config", {}):
        delete_adapter_layers(module, name)
        if not vars(module).get("peft_config"):
            strip_adapters(module)
