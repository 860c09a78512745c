"""Second modules over the same parameters: a file is tried on them while the trained model stays untouched."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from ..backbones import DiffusionModel


def shadow_model(
    model: DiffusionModel, values: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> DiffusionModel:
    """The model in eval mode over shared memory.

    Nothing of the live modules changes, whatever is done to the shadow's structure, flags or modes.

    Args:
        model: the live one.
        values: by name, what the shadow has in place of some parameters.
        parameters: by the same names, the live parameters themselves.
    """
    swapped = {id(parameters[name]): value for name, value in values.items()}
    shadow = copy.copy(model)
    shadow.denoiser = shadow_module(model.denoiser, swapped)
    shadow.text_encoders = {name: shadow_module(encoder, swapped) for name, encoder in model.text_encoders.items()}
    return shadow


def shadow_module(module: nn.Module, swapped: Mapping[int, Tensor]) -> nn.Module:
    """Copy the structure, share the tensors.

    Args:
        module: the live one.
        swapped: by id of a live parameter, the tensor to have in its place.
    """
    from torch import nn

    memo: dict[int, object] = {id(buffer): buffer for buffer in module.buffers()}
    for parameter in module.parameters():
        value = swapped.get(id(parameter), parameter).detach().to(parameter.device, parameter.dtype)
        # a quantised parameter is a class of its own and is only ever read
        alias = nn.Parameter(value, requires_grad=False) if type(parameter) is nn.Parameter else parameter
        memo[id(parameter)] = alias
    clone = copy.deepcopy(module, memo)
    for part in clone.modules():
        vars(part).pop("forward", None)  # a wrapper set on the live module would call that one
    return clone.eval()


def strip_adapters(module: nn.Module) -> nn.Module:
    """Take every peft layer off a shadow, so that it is the base alone."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    recurse_remove_peft_layers(module)
    if "peft_config" in vars(module):
        del module.peft_config
        module._hf_peft_config_loaded = False  # type: ignore[assignment]
    return module
