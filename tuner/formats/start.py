"""A saved LoRA as what a run begins with: the same update, layer by layer, or every reason why it cannot be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, RecipeError
from ..lora_sizes import Size, Sizes
from .container import Header, read_header
from .convert import read_updates
from .families import FAMILIES
from .find import find_file
from .fusing import unpadded
from .kinds import axis_of, recognise
from .loaders import check_values
from .lora import on_disk
from .lora_kind import LoRAKind
from .metadata import MAIN_RANK, ODD_SIZES
from .scales import scale_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ..lora_sizes import Place
    from .fusing import Axis
    from .kinds import Factors, Found

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


def start_problems(file: Path, *, family: str, sizes: Sizes, dora: Axis | None) -> list[str]:
    """What the header alone says against beginning with a file; imports no torch.

    Args:
        file: a LoRA with diffusers' or kohya's keys.
        family: name of the backbone that is trained.
        sizes: of the run's LoRA.
        dora: of what the run's norms are.

    Raises: DataError where it is broken or no LoRA.
    """
    header = read_header(file)
    found = recognise(file, header)
    if found.family != family:
        return [f"{KEY}: {file} is for {FAMILIES[found.family].label}, this run trains {FAMILIES[family].label}"]
    convs: list[int] = []
    ranks: dict[str, tuple[int, int]] = {}
    scales: dict[str, tuple[float, Size]] = {}
    told, main = _told(header), _main_rank(header)
    # under diffusers' keys smaller ranks are filled up with zeros, which the header may not say
    filled = found.style == "diffusers" and not told and bool(sizes.ranks or sizes.conv_rank)
    for component, layers in found.components.items():
        for key, factors in layers.items():
            if _fused(found, key):
                continue  # its rank is not that of the layers in it
            down = header.tensors[factors.down].shape
            name = _name(found, component, key)
            wide = down[2:] not in ((), (1, 1))
            if wide and sizes.conv_rank is None:
                convs.append(down[0])
                continue
            wanted = sizes.of((component, name), wide=wide)
            own = told[component, name].rank if (component, name) in told else main or down[0]
            if own < wanted.rank or not filled:
                ranks[key] = (own, wanted.rank)
            if factors.alpha is None:
                said = scale_of(file, header, component, key, down[0], None)
                scales[key] = (_trained_scale(header, told, (component, name), said, own), wanted)
    problems = [*_rank_problems(file, ranks), *_scale_problems(file, scales)]
    if convs:
        todo = f"; set adapters.lora.conv_rank: {min(convs)}" if min(convs) == max(convs) else ""
        problems.append(f"{KEY}: {file} trains convolutions, which this run does not{todo}")
    return [*problems, *_dora_problems(file, {_axis(header, factors) for factors in _all(found)}, dora)]


def read_start(
    file: Path,
    wanted: Mapping[str, Sequence[int]],
    sizes: Mapping[Place, Size],
    *,
    family: str,
    dora: Axis | None,
) -> dict[str, Tensor]:
    """The factors that make scale * B A what the file's update is, float32, and a DoRA's norms.

    Where the file holds another scale, B is multiplied by the ratio, which rounds unless it is a power of two; else
    every value is the file's own.

    Args:
        file: as for `start_problems`.
        wanted: by `<component>.<layer>.lora_A.weight`, `.lora_B.weight` and of a DoRA `.lora_magnitude_vector.weight`,
            the shapes of what trains.
        sizes: rank and scale by component and layer.
        family, dora: as for `start_problems`.

    Returns: a tensor for each name of `wanted`.

    Raises: RecipeError with every layer that does not fit; DataError where the file is broken.
    """
    header = read_header(file)
    found = recognise(file, header)
    if found.family != family:
        raise RecipeError(start_problems(file, family=family, sizes=Sizes(1, 1.0), dora=dora))
    check_values(file)
    updates = {(u.component, u.layer): u for u in read_updates(file, header, found)}
    layers, told = _layers(wanted), _told(header)
    problems = _layer_problems(file, set(updates), set(layers))
    known = {place: (name, sizes[_split(name)]) for place, name in layers.items() if place in updates}
    fitted = {place: unpadded(updates[place], size.rank) for place, (_, size) in known.items()}
    problems += _rank_problems(
        file, {".".join(place): (fitted[place].down.shape[0], size.rank) for place, (_, size) in known.items()}
    )
    trained = {
        place: _trained_scale(header, told, place, updates[place].scale, fitted[place].down.shape[0]) for place in known
    }
    problems += _scale_problems(file, {".".join(place): (trained[place], size) for place, (_, size) in known.items()})
    problems += _dora_problems(file, {u.axis if u.magnitude is not None else None for u in updates.values()}, dora)
    start: dict[str, Tensor] = {}
    for place, (layer, size) in known.items():
        update = fitted[place]
        held = (tuple(update.down.shape[1:]), update.up.shape[0])
        own = (tuple(wanted[f"{layer}.lora_A.weight"][1:]), wanted[f"{layer}.lora_B.weight"][0])
        if held != own:
            said = f"maps {_values(held[0])} to {held[1]} values in {file}, and {_values(own[0])} to {own[1]} here"
            problems.append(f"{KEY}: {layer} {said}: is it for another base model?")
        start[f"{layer}.lora_A.weight"] = update.down.float()
        start[f"{layer}.lora_B.weight"] = update.up.float() * (update.scale / size.scale)
        norms = f"{layer}.lora_magnitude_vector.weight"
        if update.magnitude is not None and norms in wanted and not problems:
            start[norms] = update.magnitude.float().view(tuple(wanted[norms]))
    if problems:
        raise RecipeError(problems, "a run begins with a LoRA of its own rank, alpha and layers, or without init_from")
    return start


def _values(sides: Sequence[int]) -> str:
    return str(sides[0]) if len(sides) == 1 else " x ".join(map(str, sides))


def _all(found: Found) -> Iterator[Factors]:
    for layers in found.components.values():
        yield from layers.values()


def _axis(header: Header, factors: Factors) -> Axis | None:
    return axis_of(header, factors) if factors.magnitude else None


def _name(found: Found, component: str, key: str) -> str:
    """The layer of a key that stands for one, as files spell it."""
    if found.style == "diffusers":
        return on_disk(component, key.removeprefix(f"{component}."))
    known = FAMILIES[found.family].names.layers(key)
    return known[1][0] if known else key


def _split(name: str) -> Place:
    component, _, layer = name.partition(".")
    return component, layer


def _told(header: Header) -> dict[Place, Size]:
    """Rank and scale in training of the layers that the header names."""
    try:
        told = json.loads(header.metadata.get(ODD_SIZES, "{}"))
        return {_split(name): Size(int(rank), float(scale)) for name, (rank, scale) in told.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}  # a stranger's: then the tensors alone tell


def _fused(found: Found, key: str) -> bool:
    """Whether a key stands for several layers."""
    known = FAMILIES[found.family].names.layers(key) if found.style == "kohya" else None
    return known is not None and len(known[1]) > 1


def _trained_scale(header: Header, told: Mapping[Place, Size], place: Place, said: float, rank: int) -> float:
    """Alpha / rank in training: what the keys say, unless the header says that it lies within B."""
    if place in told:
        return told[place].scale
    try:
        return float(header.metadata["tuner_alpha"]) / (_main_rank(header) or rank)
    except (KeyError, ValueError):
        return said


def _main_rank(header: Header) -> int | None:
    """The rank of the layers that the header does not name, where it names any."""
    told = header.metadata.get(MAIN_RANK, "")
    return int(told) if told.isdecimal() and 0 < len(told) < 6 and int(told) else None


def _layers(wanted: Mapping[str, Sequence[int]]) -> dict[tuple[str, str], str]:
    """By component and name in files, the trained layers as the loaded model names them."""
    names = dict.fromkeys(name.rpartition(".lora_")[0] for name in wanted)
    return {(part, on_disk(part, layer)): name for name in names for part, _, layer in [name.partition(".")]}


def _rank_problems(file: Path, ranks: Mapping[str, tuple[int, int]]) -> list[str]:
    """Of (the file's rank, this run's) by layer."""
    odd = {layer: both for layer, both in ranks.items() if both[0] != both[1]}
    if not odd:
        return []
    there, here = (sorted({both[side] for both in odd.values()}) for side in (0, 1))
    same = len(odd) == len(ranks) and len(there) == len(here) == 1
    todo = f"; set adapters.lora.rank: {there[0]}" if same else ""
    both = f"has rank {', '.join(map(str, there))} where this run has {', '.join(map(str, here))}"
    return [f"{KEY}: {file} {both}: {_some(list(odd))}{todo}"]


def _scale_problems(file: Path, scales: Mapping[str, tuple[float, Size]]) -> list[str]:
    """Of (the file's scale, this run's size) by layer."""
    odd = {layer: both for layer, both in scales.items() if abs(both[0] - both[1].scale) > 1e-6 * abs(both[1].scale)}
    if not odd:
        return []
    first, (rank, scale) = next(iter(odd.values()))
    if first <= 0:
        return [f"{KEY}: {file} holds alpha {first * rank:g}, with which nothing trains: {_some(list(odd))}"]
    where = "" if len(odd) == len(scales) else f" ({_some(list(odd))})"
    return [
        f"{KEY}: {file} was trained with alpha {first * rank:g} for rank {rank}, and this run has {scale * rank:g}: "
        f"it would move the update {scale / first:g} times as fast; set adapters.lora.alpha: {first * rank:g}{where}"
    ]


def _dora_problems(file: Path, there: set[Axis | None], here: Axis | None) -> list[str]:
    """Of what each layer of the file has norms, and of what this run trains them."""
    if there <= {here}:
        return []
    (other, *_) = there - {here}
    if other is None:
        return [f"{KEY}: {file} is a plain LoRA, without the norms that a DoRA trains; leave out adapters.lora.dora"]
    return [f"{KEY}: {file} is a DoRA with a norm of each {other}; set adapters.lora.dora: {other}"]


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
