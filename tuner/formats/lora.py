"""The files of a LoRA: one for diffusers, one with kohya's keys for other tools, and what lies beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..atomic import storage
from ..errors import NumbersError
from . import container, kohya
from .families import FAMILIES
from .lora_card import write_card
from .lora_kind import DIFFUSERS_FILE
from .metadata import diffusers_header, kohya_header, told_header
from .sidecar import write_sidecars

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from .about import About
    from .families import Family


@dataclass(frozen=True, slots=True)
class Pair:
    """The two factors of one layer's update, scale * up @ down, float32."""

    component: str
    """diffusers' name of the model: unet, transformer, text_encoder ..."""
    layer: str
    """Name of the layer as files spell it (`on_disk`)."""
    down: Tensor
    """A, (rank, in)."""
    up: Tensor
    """B, (out, rank)."""


def pairs(state: Mapping[str, Tensor]) -> list[Pair]:
    """The factors by layer, in order of their names.

    Raises: ValueError for a name that is no factor or a layer with one factor; NumbersError for values not finite.
    """
    import torch

    sides: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in state.items():
        stem, dot, side = name.removesuffix(".weight").rpartition(".")
        component, _, layer = stem.partition(".")
        if not dot or side not in ("lora_A", "lora_B") or not layer:
            raise ValueError(f"{name}: not the name of a LoRA factor")
        if not bool(torch.isfinite(tensor).all()):
            raise NumbersError(f"{name}: holds values that are not finite", "lower the learning rate, then start again")
        sides.setdefault((component, on_disk(component, layer)), {})[side] = tensor.detach()
    halves = [f"{component}.{layer}" for (component, layer), both in sides.items() if len(both) != 2]
    if halves:
        raise ValueError(f"one factor is missing of {halves[:4]}")
    return [Pair(*place, both["lora_A"], both["lora_B"]) for place, both in sorted(sides.items())]


def on_disk(component: str, layer: str) -> str:
    """A layer's name as files spell it.

    CLIP's layers always lie under `text_model.`, which transformers 5 dropped from CLIPTextModel; prefixes of
    torch.compile and DDP go.
    """
    layer = layer.replace("_orig_mod.", "").removeprefix("module.")
    return (
        f"text_model.{layer}" if component.startswith("text_encoder") and layer.startswith("encoder.layers.") else layer
    )


def write_lora(folder: Path, state: Mapping[str, Tensor], *, rank: int, scale: float, about: About) -> list[Path]:
    """Write every file of a LoRA into `folder`.

    Args:
        folder: an empty folder.
        state: `<component>.<layer>.lora_A.weight` (rank, in) and `.lora_B.weight` (out, rank), `<layer>` as the loaded
            model names it.
        rank: of every layer.
        scale: alpha / rank; the update is scale * B A.
        about: name, dtype and metadata.

    Returns: the files; the two `.safetensors` first.

    Raises: NumbersError for values that are not finite, or do not fit into the dtype; StorageError.
    """
    layers = pairs(state)
    folded = _cast({f"{p.component}.{p.layer}": (p.down, p.up * scale) for p in layers}, about)
    plain = {
        f"{layer}.lora_{side}.weight": factor
        for layer, both in folded.items()
        for side, factor in zip("AB", both, strict=True)
    }
    first, second = folder / DIFFUSERS_FILE, folder / f"{about.name}.safetensors"
    family, alpha = FAMILIES[about.family], rank * scale
    if family.kohya_in_diffusers:
        _write(first, container.pack(plain, diffusers_header(layers, about, rank=rank, alpha=alpha)))
        factors = _cast({_kohya_key(family, p): (p.down, p.up) for p in layers}, about)
        named = kohya.tensors(factors, alpha=alpha)
        _write(second, container.pack(named, kohya_header(named, about, rank=rank, alpha=alpha)))
    else:  # ComfyUI reads diffusers' keys of this family, and diffusers would pass over kohya's
        content = container.pack(plain, told_header(plain, layers, about, rank=rank, alpha=alpha))
        _write(first, content)
        _write(second, content)
    return [
        first,
        second,
        *write_sidecars(folder, about),
        write_card(folder, about, rank=rank, alpha=alpha, layers=layers),
    ]


def _kohya_key(family: Family, pair: Pair) -> str:
    key = family.names.key(pair.component, pair.layer)
    if key is None:
        raise ValueError(f"{pair.component}.{pair.layer}: has no name among kohya's")
    return key


def _cast(factors: Mapping[str, tuple[Tensor, Tensor]], about: About) -> dict[str, Sequence[Tensor]]:
    """Copies of the factors in the files' dtype."""
    import torch

    dtype: torch.dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[about.dtype]
    cast = {}
    for name, both in factors.items():
        copies = tuple(factor.to("cpu", dtype) for factor in both)
        if not all(bool(torch.isfinite(copy).all()) for copy in copies):
            raise NumbersError(f"{name}: its values do not fit into {about.dtype}", "set save.dtype to fp32 or bf16")
        cast[name] = copies
    return cast


def _write(path: Path, content: bytes) -> None:
    with storage(path):
        path.write_bytes(content)


def targets(layers: Sequence[Pair]) -> dict[str, list[str]]:
    """Layers by component, named so that a loader finds them with and without `text_model.`."""
    names: dict[str, list[str]] = {}
    for pair in layers:
        names.setdefault(pair.component, []).append(pair.layer.removeprefix("text_model."))
    return names
