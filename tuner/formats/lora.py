"""The files of a LoRA: one for diffusers, one with kohya's keys for other tools, and what lies beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..atomic import storage
from ..errors import NumbersError
from . import container, kohya
from .families import FAMILIES
from .fusing import named_norms, padded
from .lora_card import write_card
from .lora_kind import DIFFUSERS_FILE
from .metadata import diffusers_header, kohya_header, told_header
from .sidecar import write_sidecars

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from ..lora_sizes import Size
    from .about import About
    from .families import Family
    from .fusing import Axis, Style


SIDES = ("lora_A", "lora_B", "lora_magnitude_vector")
"""What a layer's names in a state end with."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two factors of one layer's update, scale * up @ down, float32; and a DoRA's norms (`fusing.Update`)."""

    component: str
    """diffusers' name of the model: unet, transformer, text_encoder ..."""
    layer: str
    """Name of the layer as files spell it (`on_disk`)."""
    down: Tensor
    """A, (rank, in); (rank, in, height, width) of a convolution."""
    up: Tensor
    """B, (out, rank); (out, rank, 1, 1)."""
    scale: float = 1.0
    magnitude: Tensor | None = None
    axis: Axis = "output"


def pairs(
    state: Mapping[str, Tensor],
    scale: float = 1.0,
    sizes: Mapping[tuple[str, str], Size] | None = None,
    axis: Axis = "output",
) -> list[Pair]:
    """The factors by layer, in order of their names.

    Args:
        state, scale, sizes: as for `write_lora`.
        axis: of a DoRA's norms.

    Raises: ValueError for a name that is no factor or a layer with one factor; NumbersError for values not finite.
    """
    import torch

    sides: dict[tuple[str, str], dict[str, Tensor]] = {}
    scales: dict[tuple[str, str], float] = {}
    for name, tensor in state.items():
        stem, dot, side = name.removesuffix(".weight").rpartition(".")
        component, _, layer = stem.partition(".")
        if not dot or side not in SIDES or not layer:
            raise ValueError(f"{name}: not the name of a LoRA factor")
        if not bool(torch.isfinite(tensor).all()):
            raise NumbersError(f"{name}: holds values that are not finite", "lower the learning rate, then start again")
        place = (component, on_disk(component, layer))
        sides.setdefault(place, {})[side] = tensor.detach()
        if sizes and (component, layer) in sizes:
            scales[place] = sizes[component, layer].scale
    halves = [f"{component}.{layer}" for (component, layer), own in sides.items() if not own.keys() >= {*SIDES[:2]}]
    if halves:
        raise ValueError(f"one factor is missing of {halves[:4]}")
    return [
        Pair(*place, own["lora_A"], own["lora_B"], scales.get(place, scale), _flat(own.get(SIDES[2])), axis)
        for place, own in sorted(sides.items(), key=lambda item: item[0])
    ]


def _flat(norms: Tensor | None) -> Tensor | None:
    return None if norms is None else norms.flatten()


def on_disk(component: str, layer: str) -> str:
    """A layer's name as files spell it.

    CLIP's layers always lie under `text_model.`, which transformers 5 dropped from CLIPTextModel; prefixes of
    torch.compile and DDP go.
    """
    layer = layer.replace("_orig_mod.", "").removeprefix("module.")
    return (
        f"text_model.{layer}" if component.startswith("text_encoder") and layer.startswith("encoder.layers.") else layer
    )


def write_lora(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    rank: int,
    scale: float,
    about: About,
    sizes: Mapping[tuple[str, str], Size] | None = None,
    dora: Axis | None = None,
) -> list[Path]:
    """Write every file of a LoRA into `folder`.

    Under diffusers' keys every layer has the scale within B, and the largest rank, filled with zeros: a loader that
    does not read the header takes alpha = rank of all layers. Norms of a DoRA's inputs have no name there, so then
    there is no file for diffusers' own loader.

    Args:
        folder: an empty folder.
        state: `<component>.<layer>.lora_A.weight` (rank, in) and `.lora_B.weight` (out, rank), `<layer>` as the loaded
            model names it; of a convolution with its kernel behind; of a DoRA `.lora_magnitude_vector.weight`.
        rank: of layers that `sizes` does not name.
        scale: of the same, alpha / rank; the update is scale * B A.
        about: name, dtype and metadata.
        sizes: rank and scale by component and layer.
        dora: of what its norms are; None where it is no DoRA.

    Returns: the files; those that are loaded first.

    Raises: NumbersError for values that are not finite, or do not fit into the dtype; StorageError.
    """
    layers = pairs(state, scale, sizes, dora or "output")
    family, alpha = FAMILIES[about.family], rank * scale
    first, second = folder / DIFFUSERS_FILE, folder / f"{about.name}.safetensors"
    files = [second] if dora == "input" else [first, second]
    if family.kohya_in_diffusers:
        named = _kohya_tensors(layers, family, about, alpha)
        _write(second, container.pack(named, kohya_header(named, about, rank=rank, alpha=alpha, layers=layers)))
        if first in files:
            plain = _plain_tensors(layers, about, "diffusers")
            _write(first, container.pack(plain, diffusers_header(layers, about, rank=rank, alpha=alpha)))
    else:  # ComfyUI reads diffusers' keys of this family, but for a DoRA's norms; diffusers would pass over kohya's
        styles: dict[Path, Style] = {first: "diffusers", second: "kohya" if dora else "diffusers"}
        for file in files:
            plain = _plain_tensors(layers, about, styles[file])
            _write(file, container.pack(plain, told_header(plain, layers, about, rank=rank, alpha=alpha)))
    card = write_card(folder, about, rank=rank, alpha=alpha, layers=layers)
    return [*files, *write_sidecars(folder, about), card]


def _plain_tensors(layers: Sequence[Pair], about: About, norms: Style) -> dict[str, Tensor]:
    """Under diffusers' names of layers; norms by the name of either style."""
    largest = max(pair.down.shape[0] for pair in layers)
    folded = {f"{p.component}.{p.layer}": padded(p.down, p.up * p.scale, largest) for p in layers}
    tensors = {
        f"{layer}.lora_{side}.weight": factor
        for layer, both in _cast(folded, about).items()
        for side, factor in zip("AB", both, strict=True)
    }
    for pair in layers:
        if pair.magnitude is not None:
            name, own = named_norms(pair.magnitude, pair.axis, pair.down, norms)
            layer = f"{pair.component}.{pair.layer}"
            (tensors[f"{layer}.{name}"],) = _cast({layer: (own,)}, about)[layer]
    return tensors


def _kohya_tensors(layers: Sequence[Pair], family: Family, about: About, alpha: float) -> dict[str, Tensor]:
    """Every key has the same alpha, and what a layer's own differs by lies within B: see `scales.same_alphas`."""
    keys = {_kohya_key(family, pair): pair for pair in layers}
    ratios = {key: pair.scale * pair.down.shape[0] / alpha for key, pair in keys.items()}
    factors = {
        key: (pair.down, pair.up if math.isclose(ratios[key], 1) else pair.up * ratios[key])
        for key, pair in keys.items()
    }
    norms = {
        key: named_norms(pair.magnitude, pair.axis, pair.down, "kohya")[1:]
        for key, pair in keys.items()
        if pair.magnitude is not None
    }
    cast = {key: own for key, (own,) in _cast(norms, about).items()}
    return kohya.tensors(_cast(factors, about), alpha=alpha, norms=cast)


def _kohya_key(family: Family, pair: Pair) -> str:
    key = family.names.key(pair.component, pair.layer)
    if key is None:
        raise ValueError(f"{pair.component}.{pair.layer}: has no name among kohya's")
    return key


def _cast(factors: Mapping[str, Sequence[Tensor]], about: About) -> dict[str, Sequence[Tensor]]:
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
