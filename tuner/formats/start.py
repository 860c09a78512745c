"""A saved LoRA as what a run begins with: the same update, layer by layer, or every reason why it cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, RecipeError
from .container import Header, read_header
from .convert import read_updates
from .families import FAMILIES
from .find import find_file
from .kinds import Found, recognise
from .loaders import check_values
from .lora import on_disk
from .lora_kind import LoRAKind
from .scales import scale_of

if TYPE_CHECKING:
    from torch import Tensor

KEY = "adapters.lora.init_from"
SHOWN = 4
"""Layers of one kind of problem that are written out; the rest are counted."""


def start_file(given: str) -> Path:
    """The file that `init_from` names: itself, or the one that a run left in a folder.

    Raises: DataError.
    """
    try:
        return find_file(Path(given), LoRAKind.name)
    except DataError as error:
        raise DataError(f"{KEY}: {error.message}", error.hint) from None


def start_problems(file: Path, *, family: str, rank: int, scale: float) -> list[str]:
    """What the header alone says against beginning with a file; imports no torch.

    Args:
        file: a LoRA with diffusers' or kohya's keys.
        family: name of the backbone that is trained.
        rank: of the run's LoRA.
        scale: alpha / rank of the run's LoRA.

    Raises: DataError where it is broken or no LoRA.
    """
    header = read_header(file)
    found = recognise(file, header)
    if found.family != family:
        return [f"{KEY}: {file} is for {FAMILIES[found.family].label}, this run trains {FAMILIES[family].label}"]
    ranks: dict[str, int] = {}
    scales: dict[str, float] = {}
    for component, layers in found.components.items():
        for key, factors in layers.items():
            if _fused(found, key):
                continue  # its rank is not that of the layers in it
            own = ranks[key] = header.tensors[factors.down].shape[0]
            if factors.alpha is None:
                scales[key] = _trained_scale(header, scale_of(file, header, component, key, own, None), own)
    return [*_rank_problems(file, ranks, rank), *_scale_problems(file, scales, rank, scale)]


def read_start(
    file: Path, wanted: Mapping[str, Sequence[int]], *, family: str, rank: int, scale: float
) -> dict[str, Tensor]:
    """The factors that make scale * B A what the file's update is, float32.

    Where the file holds another scale, B is multiplied by the ratio, which rounds unless it is a power of two; else
    every value is the file's own.

    Args:
        file: as for `start_problems`.
        wanted: by `<component>.<layer>.lora_A.weight` and `.lora_B.weight`, the shapes of what trains.
        family, rank, scale: as for `start_problems`.

    Returns: a tensor for each name of `wanted`.

    Raises: RecipeError with every layer that does not fit; DataError where the file is broken.
    """
    header = read_header(file)
    found = recognise(file, header)
    problems = start_problems(file, family=family, rank=rank, scale=scale)
    if problems:
        raise RecipeError(problems)
    check_values(file)
    updates = {(u.component, u.layer): u for u in read_updates(file, header, found)}
    layers = _layers(wanted)
    problems = _layer_problems(file, set(updates), set(layers))
    ranks = {".".join(place): updates[place].down.shape[0] for place in layers if place in updates}
    problems += _rank_problems(file, ranks, rank)
    scales = {
        ".".join(place): _trained_scale(header, updates[place].scale, updates[place].down.shape[0])
        for place in layers
        if place in updates
    }
    problems += _scale_problems(file, scales, rank, scale)
    start: dict[str, Tensor] = {}
    for place, layer in layers.items():
        if place not in updates:
            continue
        update = updates[place]
        held = (update.down.shape[1], update.up.shape[0])
        own = (wanted[f"{layer}.lora_A.weight"][1], wanted[f"{layer}.lora_B.weight"][0])
        if held != own:
            said = f"maps {held[0]} to {held[1]} values in {file}, and {own[0]} to {own[1]} here"
            problems.append(f"{KEY}: {layer} {said}: is it for another base model?")
        start[f"{layer}.lora_A.weight"] = update.down.float()
        start[f"{layer}.lora_B.weight"] = update.up.float() * (update.scale / scale)
    if problems:
        raise RecipeError(problems, "a run begins with a LoRA of its own rank, alpha and layers, or without init_from")
    return start


def _fused(found: Found, key: str) -> bool:
    """Whether a key stands for several layers."""
    known = FAMILIES[found.family].names.layers(key) if found.style == "kohya" else None
    return known is not None and len(known[1]) > 1


def _trained_scale(header: Header, said: float, rank: int) -> float:
    """Alpha / rank in training: what the keys say, unless the header says that it lies within B."""
    try:
        return float(header.metadata["tuner_alpha"]) / rank
    except (KeyError, ValueError):
        return said


def _layers(wanted: Mapping[str, Sequence[int]]) -> dict[tuple[str, str], str]:
    """By component and name in files, the trained layers as the loaded model names them."""
    names = dict.fromkeys(name.rpartition(".lora_")[0] for name in wanted)
    return {(part, on_disk(part, layer)): name for name in names for part, _, layer in [name.partition(".")]}


def _rank_problems(file: Path, ranks: Mapping[str, int], rank: int) -> list[str]:
    other = sorted({own for own in ranks.values() if own != rank})
    if not other:
        return []
    odd = [layer for layer, own in ranks.items() if own != rank]
    todo = f"; set adapters.lora.rank: {other[0]}" if len(odd) == len(ranks) and len(other) == 1 else ""
    return [f"{KEY}: {file} has rank {', '.join(map(str, other))} where this run has {rank}: {_some(odd)}{todo}"]


def _scale_problems(file: Path, scales: Mapping[str, float], rank: int, scale: float) -> list[str]:
    odd = {layer: own for layer, own in scales.items() if abs(own - scale) > 1e-6 * abs(scale)}
    if not odd:
        return []
    first = next(iter(odd.values()))
    if first <= 0:
        return [f"{KEY}: {file} holds alpha {first * rank:g}, with which nothing trains: {_some(list(odd))}"]
    return [
        f"{KEY}: {file} was trained with alpha {first * rank:g} for rank {rank}, and this run has {scale * rank:g}: "
        f"it would move the update {scale / first:g} times as fast; set adapters.lora.alpha: {first * rank:g}"
    ]


def _layer_problems(file: Path, there: set[tuple[str, str]], here: set[tuple[str, str]]) -> list[str]:
    problems = []
    if more := sorted(there - here):
        problems.append(f"{KEY}: {file} trains layers that this run does not: {_some(['.'.join(p) for p in more])}")
    if less := sorted(here - there):
        problems.append(f"{KEY}: this run trains layers that {file} does not: {_some(['.'.join(p) for p in less])}")
    return problems


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
