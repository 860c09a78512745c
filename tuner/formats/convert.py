"""A LoRA from diffusers' keys to kohya's and back: the same update under other names, read back before it is said."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .. import atomic
from ..errors import DataError, StorageError, TunerError, UsageError
from . import container, kohya
from .container import read_header
from .families import FAMILIES, Family
from .find import find_file
from .fusing import Update, fuse, halves_swapped, named_norms, padded, scaled, split
from .kinds import axis_of, recognise
from .loaders import check_values
from .lora import Pair, on_disk
from .metadata import converted_header
from .scales import scale_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from .container import Header
    from .kinds import Factors, Found

Style = Literal["diffusers", "kohya"]
TOLERANCE = 1e-6
"""Allowed difference of a layer's update after a conversion, relative to what it is made of: float32's rounding."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What `convert` wrote."""

    file: Path
    source: Path
    family: Family
    style: Style
    layers: Mapping[str, int]
    """By component, how many layers of diffusers' model the file updates."""
    widened: int
    """Tensors that are float32 now, since a scale would have been rounded in the 16 bit that they had."""
    drops_norms: bool = False
    """Whether it is a DoRA of inputs, whose norms diffusers' own loader drops."""


def convert(path: str | Path, to: Style, out: Path) -> Converted:
    """Write the LoRA at `path` under the other keys.

    Each layer's update is the same up to float32 rounding (`TOLERANCE`); 16-bit tensors stay so where that costs
    nothing.

    Args:
        path: a file, adapter folder or run.
        to: the keys to write.
        out: a file that is not there yet.

    Raises: DataError where the file is broken or no LoRA; UsageError where it has these keys, or `out` is there;
        StorageError where what was written is not what was read.
    """
    from pathlib import Path

    source = find_file(Path(path), "lora")
    if out.exists():
        raise UsageError(f"{out} is there already", "choose another name with --out")
    header = read_header(source)
    found = recognise(source, header)
    if found.spelling == to:
        raise UsageError(f"{source} has the keys of {to} already", "nothing is to be done")
    check_values(source)
    family = FAMILIES[found.family]
    updates = read_updates(source, header, found)
    tensors = keyed(updates, family, to, source)
    layers = [Pair(u.component, u.layer, u.down, u.up, magnitude=u.magnitude, axis=u.axis) for u in updates]
    told = converted_header(tensors, header.metadata, to, layers, found.family)
    atomic.write(out, container.pack(tensors, told))
    _compare(source, out, updates)
    inputs = any(update.magnitude is not None and update.axis == "input" for update in updates)
    return Converted(out, source, family, to, _counts(updates), _widened(header, tensors), inputs)


def as_diffusers(file: Path, header: Header, found: Found) -> dict[str, Tensor]:
    """The tensors of a file under diffusers' keys, alpha / rank within the upper factor. Raises: DataError."""
    return _as_diffusers(read_updates(file, header, found))


def keyed(updates: Sequence[Update], family: Family, style: Style, source: Path) -> dict[str, Tensor]:
    """A file's tensors under the keys of a style.

    Args:
        updates: of each of diffusers' layers, once.
        family: of the base.
        style: the keys. Under diffusers' every layer has the largest rank, filled with zeros, for its loader scales
            layers of other ranks wrongly where the header is not read.
        source: where they come from, for messages.

    Raises: DataError where a layer has no name in the style.
    """
    return _as_kohya(updates, family, source) if style == "kohya" else _as_diffusers(updates)


def read_updates(file: Path, header: Header, found: Found) -> list[Update]:
    """The update of each of diffusers' layers. A fused layer gives one for each of its parts that does something.

    Raises: DataError.
    """
    from safetensors import SafetensorError, safe_open

    updates: list[Update] = []
    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            for component, layers in found.components.items():
                for key, factors in layers.items():
                    down, up = tensors.get_tensor(factors.down), tensors.get_tensor(factors.up)
                    alpha = float(tensors.get_tensor(factors.alpha)) if factors.alpha else None
                    scale = scale_of(file, header, component, key, down.shape[0], alpha)
                    names = _names(file, found, component, key)
                    axis = (axis_of(header, factors) if factors.magnitude else None) or "output"
                    norms = _norms(file, header, key, factors, tensors, len(names))
                    for layer, part, own in zip(names, split(down, up, len(names)), norms, strict=True):
                        if part is not None or own is not None:
                            given = part or _idle(down, up, len(names))
                            updates.append(Update(component, layer, *given, scale, own, axis))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    return _turned(updates, FAMILIES[found.family]) if found.style == "kohya" else updates


def _norms(file: Path, header: Header, key: str, factors: Factors, tensors: Any, count: int) -> Sequence[Tensor | None]:
    """A DoRA's norms of each of `count` layers that a key stands for; None of each where it is none.

    Raises: DataError where they do not come apart.
    """
    if factors.magnitude is None:
        return [None] * count
    norms = tensors.get_tensor(factors.magnitude).flatten()
    if count > 1 and axis_of(header, factors) == "input":
        raise DataError(
            f"{file}: {key} is a DoRA of {count} layers in one, whose common norms of each input do not come apart"
        )
    return norms.chunk(count)


def _idle(down: Tensor, up: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Factors of one of `count` layers that change nothing but the norms."""
    return down[:1] * 0, up[: up.shape[0] // count, :1] * 0


def _names(file: Path, found: Found, component: str, key: str) -> tuple[str, ...]:
    """Diffusers' layers that a key of the file stands for. Raises: DataError."""
    if found.style == "diffusers":
        return (on_disk(component, key.removeprefix(f"{component}.")),)
    known = FAMILIES[found.family].names.layers(key)
    if known is None:
        raise DataError(f"{file}: {FAMILIES[found.family].label} has no layer {key}")
    return known[1]


def _turned(updates: Iterable[Update], family: Family) -> list[Update]:
    return [halves_swapped(u) if family.names.swaps(u.layer, u.up.shape[0], u.down.shape[1]) else u for u in updates]


def _as_diffusers(updates: Sequence[Update]) -> dict[str, Tensor]:
    """Every layer of one rank: where ranks differ, diffusers' loader scales some of them wrongly without a header."""
    rank = max(update.down.shape[0] for update in updates)
    tensors: dict[str, Tensor] = {}
    for update in updates:
        down, up = padded(update.down, scaled(update.up, update.scale), rank)
        tensors[f"{update.component}.{update.layer}.lora_A.weight"] = down
        tensors[f"{update.component}.{update.layer}.lora_B.weight"] = up
        if update.magnitude is not None:
            name, norms = named_norms(update.magnitude, update.axis, update.down, "diffusers")
            tensors[f"{update.component}.{update.layer}.{name}"] = norms
    return tensors


def _as_kohya(updates: Sequence[Update], family: Family, source: Path) -> dict[str, Tensor]:
    """Raises: DataError where a layer has no name among kohya's."""
    groups: dict[str, dict[str, Update]] = {}
    for update in _turned(updates, family):
        key = family.names.key(update.component, update.layer)
        places = None if key is None else family.names.layers(key)
        if key is None or places is None or update.layer not in places[1]:
            raise DataError(f"{source}: {update.component}.{update.layer} has no name among kohya's keys")
        groups.setdefault(key, {})[update.layer] = update
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    alphas: dict[str, float] = {}
    norms: dict[str, Tensor] = {}
    for key, own in groups.items():
        places = family.names.layers(key)
        assert places is not None
        if len({(update.up.shape[0], update.down.shape[1]) for update in own.values()}) > 1:
            raise DataError(f"{source}: the layers {', '.join(own)} are of different sizes, which no model has")
        down, up, scale = fuse([own.get(layer) for layer in places[1]])
        factors[key], alphas[key] = (down, up), scale * down.shape[0]
        if any(update.magnitude is not None for update in own.values()):
            norms[key] = _fused_norms(source, key, [own.get(layer) for layer in places[1]])
    if family.kohya_in_diffusers:
        factors, alphas = _of_one_alpha(factors, alphas)
    return kohya.tensors(factors, alpha=alphas, norms=norms)


def _of_one_alpha(
    factors: Mapping[str, tuple[Tensor, Tensor]], alphas: Mapping[str, float]
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """The same updates with the commonest alpha throughout: see `scales.same_alphas`."""
    common = Counter(alphas.values()).most_common(1)[0][0] or 1.0
    same = {
        key: (down, up if alphas[key] == common else scaled(up, alphas[key] / common))
        for key, (down, up) in factors.items()
    }
    return same, dict.fromkeys(alphas, common)


def _fused_norms(source: Path, key: str, parts: Sequence[Update | None]) -> Tensor:
    """A DoRA's norms of layers stacked, as `dora_scale` holds them. Raises: DataError where they cannot be told."""
    import torch

    rows = [
        named_norms(part.magnitude, part.axis, part.down, "kohya")[1]
        for part in parts
        if part is not None and part.magnitude is not None
    ]
    if len(rows) < len(parts) or (len(parts) > 1 and any(len(row) == 1 for row in rows)):
        raise DataError(f"{source}: the norms of {key}, which stacks {len(parts)} layers, do not follow from theirs")
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _compare(source: Path, out: Path, updates: Sequence[Update]) -> None:
    """Read a file back and hold each layer's update of a drawn input against what was read from the source.

    Raises: StorageError; the file is removed.
    """
    try:
        header = read_header(out)
        found = {(u.component, u.layer): u for u in read_updates(out, header, recognise(out, header))}
        fault = first_difference(updates, found)
    except TunerError as error:
        fault = f"it cannot be read: {error.message}"
    if fault is not None:
        out.unlink(missing_ok=True)
        raise StorageError(f"{out}: read back after the conversion of {source}, {fault}", "it was removed; try again")


def first_difference(updates: Sequence[Update], found: Mapping[tuple[str, str], Update]) -> str | None:
    """What differs first; a layer that changes nothing may be left out."""
    want = {(update.component, update.layer): update for update in updates}
    for place in want.keys() | found.keys():
        there, here = want.get(place), found.get(place)
        if there is None or here is None:
            only = there or here
            if only is not None and bool(only.up.any()) and bool(only.down.any()):
                return f"{'.'.join(place)} is in one of the two alone"
            continue
        excess = there.differs(here, TOLERANCE)
        if excess is not None:
            return f"the update of {'.'.join(place)} differs by {excess:.3g}"
    return None


def _counts(updates: Sequence[Update]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for update in updates:
        counts[update.component] = counts.get(update.component, 0) + 1
    return counts


def _widened(header: Header, tensors: Mapping[str, Tensor]) -> int:
    """How many factors are wider than any that the source holds."""
    widest = max(container.ITEM_BYTES[e.dtype] for e in header.tensors.values() if len(e.shape) > 1)
    return sum(tensor.element_size() > widest for tensor in tensors.values() if tensor.ndim > 1)
