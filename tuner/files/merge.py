"""Adapters into a base model: base + the sum of weight x update, one weight of the model after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError, NumbersError, UsageError
from .whole import opened, own_dtype, whole_header, write_model
from .writing import require_new, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from ..backbones import DiffusionModel
    from ..drawing import Strong
    from ..formats.deltas import Delta
    from ..watch import Watcher

ROUNDING_TOLD = 0.02
"""From this share of the update on, what rounding takes of it is warned about."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What `merge` wrote."""

    out: Path
    layers: Mapping[str, int]
    """By component, how many layers of the base were changed."""
    dtypes: Mapping[str, str]
    """By changed component, the type of the numbers."""
    rounding: float
    """What rounding into these types took of the update: root of the ratio of the two energies."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A layer's update in a sum."""

    source: Path
    weight: float
    delta: Delta


def require_weights(adapters: Sequence[Strong]) -> None:
    """Raises: UsageError for a weight that is no number, or changes nothing."""
    for adapter in adapters:
        if not math.isfinite(adapter.strength):
            raise UsageError(f"{adapter.path}: the weight {adapter.strength:g} is no finite number")
        if adapter.strength == 0:
            raise UsageError(f"{adapter.path}: with the weight 0 it changes nothing", "leave it out")


def read_deltas(adapters: Sequence[Strong]) -> list[Weighted]:
    """What every file of every adapter adds, at its weight.

    Raises: DataError where a file is broken; UsageError where it changes no layer's weights, such as a word.
    """
    from ..formats.container import read_header
    from ..formats.find import find_files, kind_of

    found: list[Weighted] = []
    for adapter in adapters:
        for file in find_files(adapter.path):
            header = read_header(file)
            deltas = kind_of(header).deltas(file, header)
            found += [Weighted(file, adapter.strength, delta) for delta in deltas]
    return found


def merge(
    base: str, adapters: Sequence[Strong], out: Path, watcher: Watcher, *, backbone: str | None, dtype: str | None
) -> Merged:
    """Write the base with the adapters in it, read back.

    Args:
        base: a folder, single file, Hub id or `toybox`.
        adapters: files, adapter folders or runs, at their weights.
        out: a folder, or a .safetensors file, that is not there yet.
        watcher: is told what goes on.
        backbone: the family, where neither base nor adapters tell it.
        dtype: of the numbers (`writing.DTYPES`); None takes those of the base's files.

    Raises: DataError where a file is broken or does not fit the base; UsageError where something cannot be merged or
        `out` is there; NumbersError; StorageError.
    """
    from ..drawing import Drawing, check_identity

    require_new(out, folder=True)
    require_weights(adapters)
    kind = torch_dtype(dtype) if dtype else None
    watcher.phase("reading the adapters")
    deltas = read_deltas(adapters)
    drawing = Drawing.plan(adapters, base, "cpu", backbone=backbone)
    model = opened(drawing.backbone)
    check_identity(drawing, model, watcher)
    touched = dict.fromkeys(one.delta.component for one in deltas)
    dtypes = {part: kind or own_dtype(model, part) for part in touched if part in model.components}
    changed, counts, lost = add(model, deltas, dtypes, watcher)
    names = ", ".join(drawing.names)
    header = whole_header(model, tuple(changed), tuner_base=drawing.base, tuner_merged=names)
    watcher.phase(f"writing {out} and reading it back")
    write_model(out, model, changed, dtypes, header)
    if lost >= ROUNDING_TOLD:
        watcher.warn(f"rounding into 16 bit took {lost:.1%} of what the adapters add; --dtype fp32 keeps all of it")
    return Merged(out, counts, {part: str(one).removeprefix("torch.") for part, one in dtypes.items()}, lost)


def add(
    model: DiffusionModel, deltas: Sequence[Weighted], dtypes: Mapping[str, torch.dtype], watcher: Watcher
) -> tuple[dict[str, dict[str, Tensor]], dict[str, int], float]:
    """The changed components' tensors, how many layers of each changed, and what rounding took (`Merged.rounding`).

    Every update is that of the base's own weight, also where several act on it, as when all are loaded beside it.

    Raises: DataError where the base has no such layer, or one of another size; NumbersError.
    """
    from ..formats.whole_model import file_key, stored

    places: dict[str, dict[str, list[Weighted]]] = {}
    for one in deltas:
        places.setdefault(one.delta.component, {}).setdefault(one.delta.layer, []).append(one)
    changed: dict[str, dict[str, Tensor]] = {}
    lost = moved = 0.0
    watcher.phase("merging", sum(map(len, places.values())))
    done = 0
    for component, layers in places.items():
        first = next(iter(layers.values()))[0]
        if component not in model.components:
            raise DataError(f"{first.source}: trains the {component}, which {model.backbone.model} does not have")
        tensors = dict(stored(model, component))
        names = {file_key(component, name): name for name in tensors}
        for layer, own in layers.items():
            name = names.get(f"{layer}.weight")
            if name is None:
                raise DataError(
                    f"{own[0].source}: {model.backbone.model} has no layer {layer} in its {component}",
                    "is it for another base model?",
                )
            exact, update = _sum(tensors[name], own)
            tensors[name] = exact.to(dtypes[component])
            moved += float((update**2).sum())
            lost += float(((tensors[name].float() - exact) ** 2).sum())
            done += 1
            watcher.progress(done)
        changed[component] = tensors
    return changed, {part: len(layers) for part, layers in places.items()}, math.sqrt(lost / moved) if moved else 0.0


def _sum(weight: Tensor, own: Sequence[Weighted]) -> tuple[Tensor, Tensor]:
    """The merged weight and what was added, both float32. Raises: DataError; NumbersError."""
    import torch

    base = weight.float()
    update = torch.zeros_like(base)
    for one in own:
        try:
            update += one.weight * one.delta.added(base)
        except (ValueError, RuntimeError) as error:  # sizes that do not multiply are torch's RuntimeError
            raise DataError(
                f"{one.source}: {one.delta.component}.{one.delta.layer} does not fit this base: {str(error)[:200]}",
                "is it for another base model?",
            ) from error
    if not bool(torch.isfinite(update).all()):
        place = f"{own[0].delta.component}.{own[0].delta.layer}"
        raise NumbersError(f"{own[0].source}: what {place} would become is not finite", "take a smaller weight")
    return base + update, update
