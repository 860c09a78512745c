"""A folder of pictures: what counts as one, in which order, and the caption that belongs to each.

Folders inside are read too. Nothing is followed out of the folder, and whatever is left out is named.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import DataError
from . import metadata, picture_kinds
from .listing import FileReader, Given, Listing, Picture, Refused, count, shown, some

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .sources import CaptionChoice

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "icon\r"}


@dataclass(slots=True)
class _Files:
    """Relative paths of the regular files of a folder, by what they are."""

    pictures: list[PurePosixPath] = field(default_factory=list)
    texts: list[PurePosixPath] = field(default_factory=list)
    tables: list[PurePosixPath] = field(default_factory=list)
    hidden: list[PurePosixPath] = field(default_factory=list)
    others: list[PurePosixPath] = field(default_factory=list)
    refused: list[tuple[PurePosixPath, str]] = field(default_factory=list)

    def add(self, path: PurePosixPath) -> None:
        suffix = path.suffix.lower()
        if path.name.lower() in metadata.NAMES:
            self.tables.append(path)
        elif suffix in picture_kinds.SUFFIXES:
            self.pictures.append(path)
        elif suffix == ".txt":
            self.texts.append(path)
        elif suffix in picture_kinds.UNREAD_SUFFIXES:
            self.refused.append((path, picture_kinds.UNREAD_SUFFIXES[suffix]))
        else:
            self.others.append(path)


def natural(path: PurePath | str) -> tuple[object, ...]:
    """Sort key: 2 before 10, upper and lower case together, folder by folder, the same on every system."""
    folded = (re.split(r"(\d+)", part.casefold()) for part in PurePosixPath(path).parts)
    return (*(tuple(int(p) if i % 2 else p for i, p in enumerate(pieces)) for pieces in folded), (str(path),))


def locate(path: str, key: str) -> Path:
    """The folder or picture that a recipe's `key` names: ~ expanded, relative to the working directory.

    Raises: DataError, with the nearest name that is there.
    """
    try:
        place = Path(path).expanduser()
        if path.strip() and place.exists():
            return place
    except (OSError, ValueError, RuntimeError) as error:  # unreadable, too long, a NUL inside, no such home
        raise DataError(f"{key}: {shown(path)} cannot be looked up ({error})") from error
    if not path.strip():
        raise DataError(f"{key}: the path is empty", "name the folder that holds the pictures")
    ground = place.absolute()
    above = next(parent for parent in ground.parents if parent.is_dir())
    missing = ground.relative_to(above).parts[0]
    close = difflib.get_close_matches(missing, _names(above), n=1, cutoff=0.6)
    hint = (
        f"did you mean {shown(str(above / close[0]))}?" if close else "a relative path starts at the working directory"
    )
    raise DataError(f"{key}: there is no {shown(path)} (looked for {shown(str(ground))})", hint)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # a suggestion only; the error that is being written says what is missing
        return []


def list_pictures(
    place: Path,
    label: str,
    caption_column: str,
    *,
    shown_as: str = "",
    mix: Sequence[CaptionChoice] | None = None,
) -> Listing:
    """The pictures of a folder (or one picture), with the captions that lie beside them.

    Args:
        place: a folder, or one picture (its .txt counts, a metadata file beside it does not).
        label: the recipe's key, for messages.
        caption_column: key or column of the metadata files.
        shown_as: how messages call the place; its path where empty.
        mix: several captions a picture, instead of its .txt or its row in `caption_column`.

    Raises: DataError if the place cannot be read, is a file but no picture, or is an empty folder.
    """
    name = shown_as or shown(str(place))
    if not place.is_dir():
        return _one(place, label, name, mix)
    files = _walk(place)
    if not (files.pictures or files.refused):
        found = "is empty" if not (files.texts or files.others) else "has no pictures in it"
        raise DataError(
            f"{label}.path: the folder {name} {found}",
            f"put pictures there ({picture_kinds.READ}), or name another folder",
        )
    listing = Listing(refused=[Refused(_join(name, path), reason) for path, reason in files.refused])
    listing.notes += _left_out(files, name)
    endings = [".txt"] if mix is None else [choice.ending for choice in mix if choice.ending]
    columns = [caption_column] if mix is None else [choice.column for choice in mix if choice.column]
    sidecars: dict[str, dict[PurePosixPath, PurePosixPath]] = {}
    clashes: dict[PurePosixPath, str] = {}
    for ending in endings:
        sidecars[ending], faults = _pair(files.pictures, files.texts, ending)
        clashes |= faults
    listing.refused += [Refused(_join(name, path), reason) for path, reason in clashes.items()]
    rows = _rows(place, files, name, columns, listing)
    for path in files.pictures:
        if path in clashes:
            continue
        reader = FileReader(place / path, _join(name, path))
        row = rows.get(metadata.normal(str(path)))
        beside = {ending: place / found[path] for ending, found in sidecars.items() if path in found}
        if mix is not None:
            listing.pictures.append(Picture(reader.name, reader, mix=_given(mix, beside, row)))
            continue
        listing.pictures.append(
            Picture(
                reader.name,
                reader,
                sidecar=beside.get(".txt"),
                captions=row.captions if row else (),
                caption_from="metadata" if row and row.captions else "none",
            )
        )
    used = {text for found in sidecars.values() for text in found.values()}
    unused = sorted(set(files.texts) - used, key=natural)
    unused = [text for text in unused if text not in _claimed(clashes, files.texts, endings)]
    if unused:
        listing.notes.append(
            f"{name}: {count(len(unused), '.txt file')} without a picture of that name: {_list(unused)}"
        )
    return listing


def _given(
    mix: Sequence[CaptionChoice], beside: Mapping[str, Path], row: metadata.Row | None = None
) -> tuple[Given, ...]:
    """What each choice gives one picture.

    Args:
        mix: the choices.
        beside: caption files of the picture by ending.
        row: its row of the metadata file.
    """
    return tuple(
        Given(
            choice.place,
            choice.weight,
            sidecar=beside.get(choice.ending) if choice.ending else None,
            captions=row.by_column.get(choice.column, ()) if row and choice.column else (),
        )
        for choice in mix
    )


def _one(place: Path, label: str, name: str, mix: Sequence[CaptionChoice] | None) -> Listing:
    suffix = place.suffix.lower()
    if suffix not in picture_kinds.SUFFIXES:
        hint = "give its folder, or unpack it"
        if suffix == ".parquet":
            hint = f"a parquet file goes under {label}.dataset"
        elif suffix in picture_kinds.UNREAD_SUFFIXES:
            hint = picture_kinds.UNREAD_SUFFIXES[suffix]
        raise DataError(f"{label}.path: {name} is a file, and neither a folder nor a picture", hint)
    if mix is not None:
        files = {choice.ending: place.with_suffix(choice.ending) for choice in mix if choice.ending}
        beside = {ending: file for ending, file in files.items() if file.is_file()}
        return Listing([Picture(name, FileReader(place, name), mix=_given(mix, beside))])
    text = place.with_suffix(".txt")
    return Listing([Picture(name, FileReader(place, name), sidecar=text if text.is_file() else None)])


def _walk(root: Path) -> _Files:
    files = _Files()
    real = Path(os.path.realpath(root))
    folders = [PurePosixPath()]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    _sort_in(entry, folder / entry.name, real, files, folders)
        except OSError as error:
            if folder == PurePosixPath():
                raise DataError(f"{shown(str(root))}: cannot be read ({error.strerror or error})") from error
            files.refused.append((folder, f"the folder cannot be read ({error.strerror or error})"))
    for group in (files.pictures, files.texts, files.tables, files.hidden, files.others):
        group.sort(key=natural)
    files.refused.sort(key=lambda pair: natural(pair[0]))
    return files


def _sort_in(
    entry: os.DirEntry[str], path: PurePosixPath, real: Path, files: _Files, folders: list[PurePosixPath]
) -> None:
    if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
        files.hidden.append(path)
        return
    try:
        linked = entry.is_symlink()
        mode = entry.stat().st_mode
    except OSError as error:
        files.refused.append((path, f"cannot be read ({error.strerror or error})"))
        return
    if linked and stat.S_ISDIR(mode):
        files.refused.append((path, "a link to a folder, which is not followed; name that folder as a source"))
    elif linked and not Path(os.path.realpath(entry.path)).is_relative_to(real):
        files.refused.append((path, "a link that leads out of the folder; copy the file instead"))
    elif stat.S_ISDIR(mode):
        folders.append(path)
    elif not stat.S_ISREG(mode):
        files.refused.append((path, "a device, pipe or socket, and not a file"))
    else:
        files.add(path)


def _left_out(files: _Files, name: str) -> list[str]:
    notes = []
    if inside := [path for path in files.pictures if len(path.parts) > 1]:
        folders = _list(sorted({path.parent for path in inside}, key=natural))
        notes.append(
            f"{name}: {len(inside)} of {count(len(files.pictures), 'picture')} are in folders inside: {folders}"
        )
    if files.hidden:
        notes.append(f"{name}: {count(len(files.hidden), 'hidden file')} left out: {_list(files.hidden)}")
    if files.others:
        others = count(len(files.others), "file")
        notes.append(f"{name}: {others} left out, not pictures by their names: {_list(files.others)}")
    return notes


def _pair(
    pictures: Iterable[PurePosixPath], texts: Iterable[PurePosixPath], ending: str
) -> tuple[dict[PurePosixPath, PurePosixPath], dict[PurePosixPath, str]]:
    """The file with that ending of each picture, and the pictures for which there is more than one way to say which."""
    exact, loose = defaultdict(list), defaultdict(list)
    for text in texts:
        if text.name.lower().endswith(ending.lower()):
            exact[_stem(text, ending)].append(text)
            loose[_stem(text, ending).casefold()].append(text)
    owners: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    clashes: dict[PurePosixPath, str] = {}
    undecided = []
    for picture in pictures:
        found = exact.get(str(picture.with_suffix("")), [])
        if len(found) > 1:
            clashes[picture] = f"has two caption files: {_list(found)}; keep one"
        elif found:
            owners[found[0]].append(picture)
        else:
            undecided.append(picture)
    for picture in undecided:  # Dog.jpg and dog.txt belong together unless dog.txt has a dog.jpg
        found = [text for text in loose.get(str(picture.with_suffix("")).casefold(), []) if not owners.get(text)]
        if len(found) == 1:
            owners[found[0]].append(picture)
        elif found:
            clashes[picture] = f"has several caption files: {_list(found)}; keep one"
    for text, sharing in owners.items():
        if len(sharing) > 1:
            reason = f"{text.name} would caption {' and '.join(shown(p.name) for p in sharing)}; rename one of them"
            clashes.update(dict.fromkeys(sharing, reason))
    return {p[0]: text for text, p in owners.items() if len(p) == 1}, clashes


def _stem(text: PurePosixPath, ending: str) -> str:
    return str(text)[: -len(ending)]


def _claimed(
    clashes: Iterable[PurePosixPath], texts: Iterable[PurePosixPath], endings: Iterable[str]
) -> set[PurePosixPath]:
    names = {f"{path.with_suffix('')}{ending}".casefold() for path in clashes for ending in endings}
    return {text for text in texts if str(text).casefold() in names}


def _rows(root: Path, files: _Files, name: str, columns: Sequence[str], listing: Listing) -> dict[str, metadata.Row]:
    """The metadata rows by picture, relative to `root`; rows that are not used join `listing.refused`."""
    known = {metadata.normal(str(path)) for path in files.pictures}
    rows: dict[str, metadata.Row] = {}
    for folder in {path.parent for path in files.tables}:
        if len(both := [path for path in files.tables if path.parent == folder]) > 1:
            raise DataError(f"{_join(name, both[0])} and {_join(name, both[1])} are both there", "keep one of them")
    for path in files.tables:
        shown_as = _join(name, path)
        table = metadata.read(FileReader(root / path, shown_as)(), shown_as, *columns)
        listing.notes += [
            f"{shown_as}: no row has the key {column!r}; there is {some(map(repr, table.columns))}"
            for column in columns
            if table.columns and column not in table.columns
        ]
        for picture, row in table.rows.items():
            full = metadata.normal(str(path.parent / picture))
            if full in known:
                rows.setdefault(full, row)
            else:
                table.problems.append((row.line, f"{shown(picture)} is not among the pictures of the folder"))
        listing.refused += [Refused(f"{shown_as}:{line}", reason) for line, reason in sorted(table.problems)]
    return rows


def _join(name: str, path: PurePosixPath) -> str:
    return f"{name.rstrip('/')}/{shown(str(path))}"


def _list(paths: Iterable[PurePosixPath]) -> str:
    return some(shown(str(path)) for path in paths)
