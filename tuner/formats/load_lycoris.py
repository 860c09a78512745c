"""A LoHa or LoKr into a pipeline: diffusers has no loader for them, so peft's layers are put there and filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from .families import FAMILIES
from .loaders import check_values
from .lycoris import recognise
from .lycoris_delta import read_products
from .peft_layers import activate, active, fill, inject, lycoris_layers, plain, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from torch import nn

    from .container import Header
    from .lycoris import Found
    from .lycoris_delta import Product
    from .lycoris_shapes import Method

OTHER_BASE = "is it for another base model?"


def load_lycoris(pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str) -> Callable[[], None]:
    """As `FileKind.load`: load a LoHa or LoKr and switch it on, beside those that are on already.

    Its factors are held in the type of the layer that they are for.
    """
    found = recognise(file, header)
    modules = {part: module for part in found.components if (module := pipe.components.get(part)) is not None}
    _check_parts(file, found, modules, name)
    check_values(file)
    products = read_products(file, found)
    by_layer = {part: _by_layer(file, part, module, products) for part, module in modules.items()}
    before = {part: active(module) for part, module in modules.items()}

    def take_off() -> None:
        for part, module in modules.items():
            remove(module, name)
            activate(module, before[part])

    for part, module in modules.items():
        _put(module, by_layer[part], found.method, strength, name)
        activate(module, [*before[part], name])
    return take_off


def strengthen_lycoris(pipe: DiffusionPipeline, name: str, strength: float) -> bool:
    """As `FileKind.set_strength`."""
    layers = [layer for module in _modules(pipe) for layer in lycoris_layers(module, name).values()]
    for layer in layers:
        layer.set_scale(name, strength)
    return bool(layers)


def unload_lycoris(pipe: DiffusionPipeline, name: str) -> bool:
    """As `FileKind.unload`."""
    modules = [module for module in _modules(pipe) if lycoris_layers(module, name)]
    for module in modules:
        remove(module, name)
    return bool(modules)


def _modules(pipe: DiffusionPipeline) -> list[nn.Module]:
    from torch import nn

    return [module for module in pipe.components.values() if isinstance(module, nn.Module)]


def _check_parts(file: Path, found: Found, modules: Mapping[str, nn.Module], name: str) -> None:
    """Raises: DataError where a part is absent; UsageError where it has such a name, or no weights in memory."""
    if absent := sorted(found.components.keys() - modules.keys()):
        own = FAMILIES[found.family]
        raise DataError(
            f"{file}: trains the {absent[0]}, which this pipeline does not have",
            f"it is for {own.label}: load it into a {own.pipeline} with all of its text encoders",
        )
    for part, module in modules.items():
        if name in vars(module).get("peft_config", {}):
            raise UsageError(f"the pipeline's {part} has an adapter named {name!r}", "give another `name`")
        if next(module.parameters()).device.type == "meta":
            raise UsageError(
                f"{file}: cannot be loaded into a pipeline whose weights are offloaded layer by layer",
                "load it before enable_sequential_cpu_offload()",
            )


def _by_layer(file: Path, part: str, module: nn.Module, products: Sequence[Product]) -> dict[str, Product]:
    """The updates of a component by its own names of the layers.

    Raises: DataError where a layer has no place there or another size.
    """
    import torch
    from torch import nn

    from .lora import on_disk

    weights = {
        on_disk(part, plain(layer)): (plain(layer), own.weight)
        for layer, own in module.named_modules()
        if isinstance(own, nn.Linear | nn.Conv2d) and ".lora_" not in layer
    }
    placed = {}
    for update in (own for own in products if own.component == part):
        if update.layer not in weights:
            raise DataError(f"{file}: this pipeline's {part} has no layer {update.layer}", OTHER_BASE)
        layer, weight = weights[update.layer]
        rows, columns = update.size()
        shape = torch.Size(weight.shape)
        if (rows, rows * columns) != (shape[0], shape.numel()):
            here = f"this pipeline's layer {shape.numel() // shape[0]} to {shape[0]}"
            raise DataError(f"{file}: {update.layer} maps {columns} to {rows} values, {here}", OTHER_BASE)
        placed[layer] = update
    return placed


def _put(module: nn.Module, updates: Mapping[str, Product], method: Method, strength: float, name: str) -> None:
    import torch

    for layer, part in inject(module, list(updates), method, name).items():
        update, weight = updates[layer], part.get_base_layer().weight
        # a quantised weight's own type is none that can be computed in
        dtype: torch.dtype = weight.dtype if weight.dtype.itemsize > 1 and weight.is_floating_point() else torch.float32
        fill(part, name, {leaf: factor.to(dtype) for leaf, factor in update.factors.items()}, update.scale)
        part.set_scale(name, strength)
