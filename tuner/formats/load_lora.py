"""A LoRA into a pipeline: checked before, counted after, refused where it would do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DataError, UsageError
from .families import FAMILIES
from .fusing import PEFT_NORMS
from .kinds import Found, read_by_diffusers, recognise
from .loaders import check_values, quiet_loaders
from .peft_layers import activate, active, plain, remove
from .scales import adapter_config, same_alphas

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from peft.tuners.lora.layer import LoraLayer
    from torch import Tensor, nn

    from .container import Header

OTHER_BASE = "is it for another base model?"
PLAIN_STARTS = (True, False, None, "gaussian")
"""`init_lora_weights` that leaves the base's weights alone; others (pissa, olora ...) would change them on loading."""


def load_lora(pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str) -> Callable[[], None]:
    """As `FileKind.load`: load a LoRA and switch it on, beside those that are on already.

    Args:
        pipe: a pipeline for Stable Diffusion 1.5, 3.5 or 3.
        file: with diffusers' or kohya's keys.
    """
    found = recognise(file, header)
    modules = {part: module for part in found.components if (module := pipe.components.get(part)) is not None}
    layers = _check_fit(file, header, found, modules)
    dora = any(factors.magnitude for own in found.components.values() for factors in own.values())
    _check_config(file, header, dora=dora)
    check_values(file)
    converted = None
    if dora or not read_by_diffusers(found) or (found.style == "kohya" and not kohya_loads(file, header, found)):
        from .convert import as_diffusers

        converted = as_diffusers(file, header, found)
        layers = {part: {name for name in own if _in(converted, part, name)} for part, own in layers.items()}
    _require_free(modules, name)
    before = {part: active(module) for part, module in modules.items()}

    def take_off() -> None:
        for part, module in modules.items():
            remove(module, name)
            activate(module, before[part])

    try:
        _load(pipe, file, name, converted)
        for part, module in modules.items():
            injected = lora_layers(module, name)
            if not injected or injected.keys() != layers[part]:
                raise DataError(f"{file}: diffusers loaded {len(injected)} of {len(layers[part])} layers of the {part}")
    except DataError:
        for module in modules.values():
            remove(module, name)
        raise
    for part, module in modules.items():
        for layer in lora_layers(module, name).values():
            set_scale(layer, name, strength)
        activate(module, [*before[part], name])
    return take_off


def kohya_loads(file: Path, header: Header, found: Found) -> bool:
    """Whether diffusers' own loader takes a file with kohya's keys as it is."""
    return FAMILIES[found.family].kohya_in_diffusers and same_alphas(file, header, found)


def strengthen_lora(pipe: DiffusionPipeline, name: str, strength: float) -> bool:
    """As `FileKind.set_strength`."""
    from torch import nn

    parts = [module for module in pipe.components.values() if isinstance(module, nn.Module)]
    layers = [layer for module in parts for layer in lora_layers(module, name).values()]
    for layer in layers:
        set_scale(layer, name, strength)
    return bool(layers)


def set_scale(layer: LoraLayer, name: str, strength: float) -> None:
    """Let a layer's adapter act at a strength. Of a DoRA all of the change is scaled, the norms' as well, which peft's
    own `set_scale` leaves at 1.
    """
    variant = layer.lora_variant.get(name)
    if variant is None:
        layer.set_scale(name, strength)
        return
    from ..nn.dora import AtStrength

    layer.lora_variant[name] = AtStrength(variant.inner if isinstance(variant, AtStrength) else variant, strength)


def unload_lora(pipe: DiffusionPipeline, name: str) -> bool:
    """As `FileKind.unload`; with its last LoRA, every layer of the pipeline is the base's own again."""
    from torch import nn

    parts = [module for module in pipe.components.values() if isinstance(module, nn.Module)]
    modules = [module for module in parts if name in vars(module).get("peft_config", {})]
    for module in modules:
        remove(module, name)
    return bool(modules)


def _in(tensors: Mapping[str, Tensor], component: str, layer: str) -> bool:
    from .lora import on_disk

    return f"{component}.{on_disk(component, layer)}.lora_A.weight" in tensors


def _load(pipe: Any, file: Path, name: str, converted: Mapping[str, Tensor] | None) -> None:
    """Load the file, or in its place the tensors that it was converted to.

    Raises: DataError with what diffusers' loader says.
    """
    from safetensors import SafetensorError

    faults = (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, OSError, SafetensorError)
    try:
        with quiet_loaders():
            if converted is not None:
                load_tensors(pipe, converted, name)
                return
            pipe.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=name, local_files_only=True, use_safetensors=True
            )
    except faults as error:
        raise DataError(f"{file}: diffusers' loader refuses it: {str(error)[:300]}") from error


def load_tensors(pipe: Any, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load what `as_diffusers` gave. A DoRA of inputs has no name in diffusers, and a layer without norms beside others
    with some would be taken for a DoRA of the base's norms there, so these are set right afterwards.

    Raises: what `load_lora_weights` raises.
    """
    from .lora import on_disk

    inputs = {key: value for key, value in tensors.items() if key.endswith(".dora_scale")}
    pipe.load_lora_weights({key: value for key, value in tensors.items() if key not in inputs}, adapter_name=name)
    if not any(key.endswith((".dora_scale", f".{PEFT_NORMS}.weight")) for key in tensors):
        return
    from ..nn.dora import put_input_norms

    parts = {key.partition(".")[0] for key in tensors}
    for part, module in ((part, pipe.components[part]) for part in parts):
        for own, layer in lora_layers(module, name).items():
            place = f"{part}.{on_disk(part, own)}"
            if f"{place}.dora_scale" in inputs:
                put_input_norms(layer, name, inputs[f"{place}.dora_scale"].flatten())
            elif f"{place}.{PEFT_NORMS}.weight" not in tensors and name in layer.lora_variant:
                del layer.lora_variant[name], layer.lora_magnitude_vector[name]


def _require_free(modules: Mapping[str, nn.Module], name: str) -> None:
    """Raises: UsageError where the pipeline has an adapter of this name."""
    for component, module in modules.items():
        if name in vars(module).get("peft_config", {}):
            raise UsageError(f"the pipeline's {component} has an adapter named {name!r}", "give another `name`")


def _check_fit(file: Path, header: Header, found: Found, modules: Mapping[str, nn.Module]) -> dict[str, set[str]]:
    """The layers of each component, as the module names them.

    Raises: DataError where a layer has no place in the pipeline or another size.
    """
    from torch import nn

    absent = sorted(found.components.keys() - modules.keys())
    if absent:
        own = FAMILIES[found.family]
        raise DataError(
            f"{file}: trains the {absent[0]}, which this pipeline does not have",
            f"it is for {own.label}: load it into a {own.pipeline} with all of its text encoders",
        )
    layers: dict[str, set[str]] = {}
    for component, module in modules.items():
        # peft wraps a layer as <layer>.base_layer, which must not hide the layer's own name
        sizes = {
            plain(layer): tuple(part.weight.shape)
            for layer, part in module.named_modules()
            if isinstance(part, (nn.Linear, nn.Conv2d)) and ".lora_" not in layer
        }
        by_key: dict[str | None, list[str]] = {}
        for layer in sizes:
            by_key.setdefault(_key(component, layer, found), []).append(layer)
        layers[component] = set()
        for key, factors in found.components[component].items():
            own = by_key.get(key)
            if own is None:
                raise DataError(f"{file}: this pipeline's {component} has no layer {key}", OTHER_BASE)
            down, up = header.tensors[factors.down].shape, header.tensors[factors.up].shape
            width, rows = sizes[own[0]][1], sum(sizes[layer][0] for layer in own)
            if (down[1], up[0]) != (width, rows):
                here = f"this pipeline's layer {width} to {rows}"
                raise DataError(f"{file}: {key} maps {down[1]} to {up[0]} values, {here}", OTHER_BASE)
            if tuple(down[2:]) != sizes[own[0]][2:]:
                kernels = [" x ".join(map(str, sides)) or "none" for sides in (down[2:], sizes[own[0]][2:])]
                said = f"has the kernel {kernels[0]}, this pipeline's layer {kernels[1]}"
                raise DataError(f"{file}: {key} {said}", OTHER_BASE)
            layers[component] |= set(own)
    return layers


def _key(component: str, layer: str, found: Found) -> str | None:
    """What the file calls a layer of the pipeline; with kohya's keys, several layers may share one."""
    from .lora import on_disk

    layer = on_disk(component, layer)
    if found.style == "kohya":
        return FAMILIES[found.family].names.key(component, layer)
    return f"{component}.{layer}"


def _check_config(file: Path, header: Header, *, dora: bool) -> None:
    """Peft's configuration asks for nothing that a plain LoRA does not need.

    Raises: DataError.
    """
    for key, value in adapter_config(file, header).items():
        field = key.rpartition(".")[2]
        if field == "init_lora_weights" and value not in PLAIN_STARTS:
            raise DataError(f"{file}: {key} {str(value)[:40]!r} would change the base's own weights")
        if field == "use_dora" and value and not dora:
            raise DataError(f"{file}: its lora_adapter_metadata says that it is a DoRA, and it holds no norms")


def lora_layers(module: nn.Module, name: str) -> dict[str, LoraLayer]:
    """The layers of a module that hold the adapter `name`, by their own names."""
    from peft.tuners.lora.layer import LoraLayer

    return {
        layer: part for layer, part in module.named_modules() if isinstance(part, LoraLayer) and name in part.lora_A
    }
