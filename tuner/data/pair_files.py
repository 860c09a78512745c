"""Where pairs of pictures lie: two folders whose files share their names, or a table with a row for each pair."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import metadata
from .folder import list_pictures, locate
from .listing import FileReader, Listing, Picture, Refused, shown, some
from .sources import CHOSEN, REJECTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .sources import PairSource

SIDES = (CHOSEN, REJECTED)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two candidates; captions of a table are the chosen one's."""

    name: str
    """For messages."""
    chosen: Picture
    rejected: Picture


@dataclass(slots=True)
class PairListing:
    """The pairs of one source, in their natural order."""

    pairs: list[Pair] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_pairs(source: PairSource, label: str) -> PairListing:
    """The pairs of a folder, of a .jsonl file or of a dataset; whatever has no partner is named.

    Raises: DataError where the place cannot be read, or holds no pairs by its layout.
    """
    if source.dataset is not None:
        from .hub import list_row_pairs

        return list_row_pairs(source, label)
    assert source.path is not None
    place, name = locate(source.path, f"{label}.path"), shown(source.path)
    if place.is_dir():
        return _folders(place, name, source, label)
    if place.suffix.lower() == ".jsonl":
        return _table(place, name, source)
    raise DataError(
        f"{label}.path: {name} is a file, and neither a folder nor a .jsonl file of pairs",
        f"name a folder that holds {CHOSEN}/ and {REJECTED}/, or a .jsonl file",
    )


def swapped(label: Any) -> bool | None:
    """Whether a row's label says that the other picture is the preferred one; None for a tie.

    Raises: TypeError where it says neither.
    """
    if isinstance(label, (bool, int, float)):
        if label == 0.5:
            return None
        if label in (0, 1):
            return not label
    raise TypeError(f"the label is {label!r}; it must be 1 (the chosen one is), 0 (the other is) or 0.5 (a tie)")


def ties_note(label: str, ties: list[str]) -> list[str]:
    """A line that names the rows where neither picture is preferred."""
    return [f"{label}: ties, which teach nothing and are left out: {some(ties)}"] if ties else []


def _folders(place: Path, name: str, source: PairSource, label: str) -> PairListing:
    for side in SIDES:
        if not (place / side).is_dir():
            tables = sorted(path.name for path in place.glob("*.jsonl"))
            hint = f"pairs lie in {CHOSEN}/ and {REJECTED}/, under one name in both"
            if tables:
                hint = f"a table of pairs is named itself: {label}.path={name.rstrip('/')}/{shown(tables[0])}"
            raise DataError(f"{label}.path: the folder {name} has no folder {side}/ in it", hint)
    result = PairListing()
    sides: dict[str, dict[str, Picture]] = {}
    refused: dict[str, dict[str, str]] = {}
    for side in SIDES:
        at = f"{name.rstrip('/')}/{side}"
        listing = list_pictures(place / side, label, source.caption_column, shown_as=at)
        result.refused += listing.refused
        result.notes += listing.notes
        sides[side] = _by_stem(listing, at, result)
        refused[side] = {_stem(item.name, at): item.name for item in listing.refused}
    others = [entry.name for entry in place.iterdir() if entry.name not in SIDES and not entry.name.startswith(".")]
    if others:
        result.notes.append(f"{name}: not in {CHOSEN}/ or {REJECTED}/, so left out: {some(sorted(map(shown, others)))}")
    chosen, rejected = (sides[side] for side in SIDES)
    for stem, picture in chosen.items():
        if stem in rejected:
            result.pairs.append(Pair(f"{name.rstrip('/')}/*/{stem}", picture, rejected[stem]))
    for side, other in (SIDES, SIDES[::-1]):
        for stem, picture in sides[side].items():
            if stem not in sides[other]:
                lost = refused[other].get(stem)
                reason = f"its partner {lost} cannot be used" if lost else f"no partner: there is no {other}/{stem}.*"
                result.refused.append(Refused(picture.name, reason))
    return result


def _by_stem(listing: Listing, at: str, result: PairListing) -> dict[str, Picture]:
    """Pictures by their name without its ending; those that share one are refused."""
    found: dict[str, list[Picture]] = defaultdict(list)
    for picture in listing.pictures:
        found[_stem(picture.name, at)].append(picture)
    for stem, sharing in found.items():
        if len(sharing) > 1:
            names = some(PurePosixPath(picture.name).name for picture in sharing)
            reason = f"{names} have one name, so it is not clear which makes the pair {stem}; rename one of them"
            result.refused += [Refused(picture.name, reason) for picture in sharing]
    return {stem: sharing[0] for stem, sharing in found.items() if len(sharing) == 1}


def _stem(name: str, at: str) -> str:
    return metadata.normal(str(PurePosixPath(name.removeprefix(at + "/")).with_suffix("")))


def _table(place: Path, name: str, source: PairSource) -> PairListing:
    table = metadata.Table(name)
    result = PairListing()
    ties: list[str] = []
    for line, row in metadata.json_rows(FileReader(place, name)(), table):
        table.columns.update(dict.fromkeys(row))
        try:
            pair = _row(place.parent, f"{name}:{line}", row, source)
        except (metadata.BadRowError, TypeError) as error:
            table.problems.append((line, str(error)))
            continue
        if pair is None:
            ties.append(f"line {line}")
        else:
            result.pairs.append(pair)
    if source.caption_column not in table.columns and table.columns:
        result.notes.append(f"{name}: no row has the key {source.caption_column!r}; there is {some(table.columns)}")
    result.refused += [Refused(f"{name}:{line}", reason) for line, reason in sorted(table.problems)]
    result.notes += ties_note(name, ties)
    return result


def _row(folder: Path, name: str, row: Mapping[str, Any], source: PairSource) -> Pair | None:
    """The pair of a row; None for a tie. Raises: BadRowError, TypeError."""
    captions = metadata.captions_of(row.get(source.caption_column), source.caption_column)
    first, second = (_picture(folder, row, key) for key in (source.chosen_column, source.rejected_column))
    other = swapped(row.get(source.label_column)) if source.label_column is not None else False
    if other is None:
        return None
    chosen, rejected = (second, first) if other else (first, second)
    told = Picture(chosen.name, chosen.read, captions=captions, caption_from="metadata" if captions else "none")
    return Pair(name, told, rejected)


def _picture(folder: Path, row: Mapping[str, Any], key: str) -> Picture:
    metadata.relative_path(row, key)
    path = folder / row[key]
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise metadata.BadRowError(f"{key} {row[key]!r} is a link that leads out of the folder; copy the file instead")
    name = shown(row[key])
    return Picture(name, FileReader(path, name))
