"""LoRAs read and put together: several into one, exactly, and any made smaller, the energy kept told for each part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from . import low_rank
from .merge import Weighted, require_weights
from .writing import cast, require_new, torch_dtype, write_lora

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from ..drawing import Strong
    from ..formats.convert import Style
    from ..formats.fusing import Update
    from ..watch import Watcher
    from .low_rank import Wanted

STYLES = ("diffusers", "kohya")
SAID = ("modelspec.trigger_phrase",)
"""Texts of headers that are listed where the sources differ; others are left out."""


@dataclass(frozen=True, slots=True)
class Part:
    """What was kept of one component."""

    layers: int
    kept: float
    """Share of the energy of all its layers' updates; 1.0 is all of it."""
    ranks: tuple[int, int]
    """The smallest and the largest of its layers."""


@dataclass(frozen=True, slots=True)
class Made:
    """A LoRA that was written."""

    out: Path
    family: str
    style: str
    parts: Mapping[str, Part]
    """By component."""
    kept: float
    """Share of the energy, over all components."""


@dataclass(frozen=True, slots=True)
class Source:
    """A LoRA file that was read."""

    file: Path
    family: str
    style: Style
    updates: Sequence[Update]
    metadata: Mapping[str, str]


def read_lora(path: Path) -> Source:
    """The LoRA at a path. Raises: DataError where it is broken; UsageError where it is something else."""
    from ..formats.container import read_header
    from ..formats.find import find_file, kind_of
    from ..formats.fusing import Update
    from ..formats.kinds import recognise

    file = find_file(path, "lora")
    header = read_header(file)
    kind = kind_of(header)
    updates = list(kind.deltas(file, header))
    plain = [update for update in updates if isinstance(update, Update) and update.magnitude is None]
    if len(plain) != len(updates):
        raise UsageError(
            f"{file}: is {kind.label} whose update is more than a product of two factors, such as a DoRA's",
            "merge it into a base (--base), then `tuner extract` makes a LoRA of the difference",
        )
    found = recognise(file, header)
    return Source(file, found.family, found.style, plain, header.metadata)


def merge_loras(
    adapters: Sequence[Strong],
    out: Path,
    watcher: Watcher,
    *,
    wanted: Wanted | None = None,
    style: str | None = None,
    dtype: str | None = None,
) -> Made:
    """Several LoRAs as one: factors one above the other, so that the update is the weighted sum, exactly.

    Args:
        adapters: files, adapter folders or runs, at their weights.
        out: a .safetensors file that is not there yet.
        watcher: is told what goes on.
        wanted: makes the sum smaller; None keeps it whole, its rank being the sum of theirs.
        style: the keys; None takes the first file's.
        dtype: of the factors; None takes the files' own, and fp32 where a weight would be rounded.

    Raises: DataError where a file is broken; UsageError where they do not go together or `out` is there.
    """
    require_new(out)
    require_weights(adapters)
    require_style(style)
    kind = torch_dtype(dtype) if dtype else None
    watcher.phase("reading the LoRAs")
    sources = [read_lora(adapter.path) for adapter in adapters]
    if len({source.family for source in sources}) > 1:
        said = ", ".join(f"{source.file} for {source.family}" for source in sources)
        raise UsageError(f"these are for different families: {said}", "merge those of one")
    if len(sources) == 1 and adapters[0].strength == 1 and wanted is None:
        raise UsageError(f"{sources[0].file} alone at 1 would be itself", "name another, give it a weight, or --base")
    weighted = [
        Weighted(source.file, adapter.strength, update)
        for adapter, source in zip(adapters, sources, strict=True)
        for update in source.updates
    ]
    summed = concatenated(weighted)
    metadata = _common([source.metadata for source in sources])
    metadata["tuner_merged"] = ", ".join(
        f"{s.file.name}:{a.strength:g}" for a, s in zip(adapters, sources, strict=True)
    )
    whole = Source(sources[0].file, sources[0].family, sources[0].style, summed, metadata)
    return _write(whole, out, watcher, wanted, style, kind)


def resize(
    path: Path, out: Path, wanted: Wanted, watcher: Watcher, *, style: str | None = None, dtype: str | None = None
) -> Made:
    """A LoRA at a smaller rank, each layer's update the best of its rank.

    Args:
        path: a file, adapter folder or run.
        out: a .safetensors file that is not there yet.
        wanted: what to keep.
        watcher: is told what goes on.
        style: the keys; None takes the file's own.
        dtype: of the factors; None takes the file's own.

    Raises: DataError where the file is broken; UsageError where no layer would be smaller, or `out` is there.
    """
    require_new(out)
    require_style(style)
    kind = torch_dtype(dtype) if dtype else None
    source = read_lora(path)
    ranks = {update.down.shape[0] for update in source.updates}
    if wanted.rank is not None and max(ranks) <= wanted.rank:
        raise UsageError(
            f"{source.file} has rank {max(ranks)}, so nothing of it is beyond --rank {wanted.rank}", "ask for less"
        )
    metadata = {key: text for key, text in source.metadata.items() if key not in ("tuner_alpha", "tuner_recipe")}
    said = f"rank {wanted.rank}" if wanted.rank is not None else f"energy {wanted.energy:g}"
    metadata["tuner_resized"] = f"from rank {max(ranks)} by {said}"
    return _write(replace(source, metadata=metadata), out, watcher, wanted, style, kind)


def concatenated(weighted: Sequence[Weighted]) -> list[Update]:
    """For each layer one update that is the weighted sum of those given, of rank the sum of theirs.

    Raises: DataError where two updates of a layer are of different sizes.
    """
    import torch

    from ..formats.fusing import Update, scaled

    places: dict[tuple[str, str], list[tuple[Weighted, Update]]] = {}
    for one in weighted:
        assert isinstance(one.delta, Update)
        places.setdefault((one.delta.component, one.delta.layer), []).append((one, one.delta))
    summed = []
    for (component, layer), own in places.items():
        sizes = {(update.down.shape[1:], update.up.shape[:1], update.up.shape[2:]) for _, update in own}
        if len(sizes) > 1:
            files = " and ".join(dict.fromkeys(str(one.source) for one, _ in own))
            raise DataError(
                f"{files}: their updates of {component}.{layer} are of different sizes", "these are for different bases"
            )
        downs = [update.down for _, update in own]
        ups = [scaled(update.up, one.weight * update.scale) for one, update in own]
        kind = _widest([*downs, *ups])
        down = torch.cat([part.to(kind) for part in downs])
        up = torch.cat([part.to(kind) for part in ups], dim=1)
        summed.append(Update(component, layer, down.contiguous(), up.contiguous()))
    return summed


def smaller(update: Update, wanted: Wanted) -> tuple[Update, float, float]:
    """The best update of the wanted rank, the energy that it keeps, and the whole's.

    Raises: DataError where the update is not finite.
    """
    spectrum = low_rank.of_product(update.down.flatten(1), update.up.flatten(1), update.scale)
    rank = wanted.of(spectrum)
    down, up = spectrum.factors(rank)
    small = replace(
        update,
        down=down.reshape(rank, *update.down.shape[1:]),
        up=up.reshape(-1, rank, *update.up.shape[2:]),
        scale=1.0,
    )
    return small, spectrum.kept(rank), spectrum.total


def _write(
    source: Source, out: Path, watcher: Watcher, wanted: Wanted | None, style: str | None, dtype: torch.dtype | None
) -> Made:
    """Make it smaller where that is wanted, write it, and tell what was kept."""
    updates, energies = [], []
    watcher.phase("taking the singular values" if wanted else "putting together", len(source.updates))
    for number, update in enumerate(source.updates, 1):
        if wanted is None:
            updates.append(update if dtype is None else cast(update, dtype))
            energies.append((1.0, 1.0))
        else:
            try:
                small, kept, total = smaller(update, wanted)
            except ValueError as error:
                raise DataError(f"{source.file}: {update.component}.{update.layer} {error}") from error
            updates.append(cast(small, dtype or _widest([update.down, update.up])))
            energies.append((kept, total))
        watcher.progress(number)
    keys: Style = style or source.style  # type: ignore[assignment]
    watcher.phase(f"writing {out} and reading it back")
    write_lora(out, updates, family=source.family, style=keys, metadata=source.metadata, source=source.file)
    return told(out, source.family, keys, updates, energies)


def told(
    out: Path, family: str, style: str, updates: Sequence[Update], energies: Sequence[tuple[float, float]]
) -> Made:
    """What a LoRA keeps, from each layer's (kept, total) energy."""
    parts: dict[str, Part] = {}
    for component in dict.fromkeys(update.component for update in updates):
        own = [(u, e) for u, e in zip(updates, energies, strict=True) if u.component == component]
        ranks = [update.down.shape[0] for update, _ in own]
        parts[component] = Part(len(own), share([e for _, e in own]), (min(ranks), max(ranks)))
    return Made(out, family, style, parts, share(energies))


def share(energies: Sequence[tuple[float, float]]) -> float:
    """What is kept of all of them; of nothing, everything."""
    total = sum(whole for _, whole in energies)
    return min(1.0, sum(kept for kept, _ in energies) / total) if total else 1.0


def require_style(style: str | None) -> None:
    if style is not None and style not in STYLES:
        raise UsageError(f"--keys {style!r} are no keys that are written", f"there is {', '.join(STYLES)}")


def _common(headers: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all headers say alike; trigger words are listed."""
    first, *rest = headers
    same = {key: text for key, text in first.items() if all(other.get(key) == text for other in rest)}
    for key in SAID:
        said = list(dict.fromkeys(header[key] for header in headers if header.get(key)))
        if said:
            same[key] = ", ".join(said)
    return {key: text for key, text in same.items() if key not in ("tuner_alpha", "tuner_recipe")}


def _widest(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    from functools import reduce

    import torch

    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
