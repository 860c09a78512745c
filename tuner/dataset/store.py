"""The folder of a dataset: what is in it, who may change it, and what a killed writer left behind.

`dataset.json` says which pictures belong to it; `images/metadata.jsonl` holds the captions, where training reads them.
New files wait in `.incoming` until `dataset.json` names them, removed ones in `.removed` while they can come back, so
that at whatever moment a writer dies, the next one to look puts every file where it belongs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .. import atomic
from ..data import metadata
from ..data.listing import Refused
from ..errors import DataError, UsageError
from . import pictures
from .exclusive import exclusive
from .history import History
from .record import Contents, Picture, read_json, write_json
from .scratch import sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "dataset.json"
TABLE = "metadata.jsonl"
CAPTION = "text"
"""Key of a row that holds the caption; `data.images.caption_column` reads it where nothing else is said."""
MAX_NAME = 100


def clean_name(name: str) -> str:
    """A dataset's name as it is kept. Raises: UsageError where nothing is left of it, or too much."""
    text = " ".join("".join(char if char.isprintable() else " " for char in name).split())
    if not text:
        raise UsageError("the dataset needs a name", "a word or two, such as: my dog")
    if len(text) > MAX_NAME:
        raise UsageError(f"a name of {len(text)} characters; the limit is {MAX_NAME}", "choose a shorter one")
    return text


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset's folder. Any number of threads and processes may read and change it at once."""

    path: Path

    @classmethod
    def new(cls, path: Path, name: str) -> Self:
        """Make an empty dataset at `path`, which must not exist. Raises: UsageError, StorageError."""
        name = clean_name(name)
        if path.exists():
            raise UsageError(f"{path} exists already", "choose another place for the dataset")
        with atomic.folder(path) as scratch:
            scratch.chmod(0o700)
            made = cls(scratch)
            for part in (made.images, made.thumbs, made.incoming, made.removed):
                part.mkdir()
            (scratch / FILE).write_bytes(write_json(Contents(name)))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The dataset at `path`; what killed writers left there is tidied up.

        Raises: UsageError where there is none; DataError where its files make no sense; StorageError, LockedError.
        """
        dataset = cls(path)
        with dataset.changing() as change:
            change.mend()
        return dataset

    @property
    def images(self) -> Path:
        """The folder of pictures and captions that a recipe names."""
        return self.path / "images"

    @property
    def thumbs(self) -> Path:
        return self.path / "thumbs"

    @property
    def incoming(self) -> Path:
        return self.path / ".incoming"

    @property
    def removed(self) -> Path:
        return self.path / ".removed"

    def look(self) -> Change:
        """What it holds now, in one piece; not to be changed. Raises: as `open`."""
        found = Change.read(self)
        if found.whole():
            return found
        with self.changing() as change:
            change.mend()
            return change

    def contents(self) -> Contents:
        """Raises: as `open`."""
        return self.look().contents

    def captions(self) -> dict[str, str]:
        """By picture id, in order; '' where there is none. Raises: as `open`."""
        return self.look().captions()

    @contextlib.contextmanager
    def changing(self) -> Iterator[Change]:
        """What it holds, while nobody else changes it. Raises: as `open`."""
        if not (self.path / FILE).is_file():
            raise _absent(self.path)
        with exclusive(self.path / ".lock"):
            yield Change.read(self)

    def rename(self, name: str) -> str:
        """Gives the name that is kept. Raises: as `open`."""
        name = clean_name(name)
        with self.changing() as change:
            change.contents = replace(change.contents, name=name)
            change.save_contents()
        return name

    def delete(self) -> None:
        """Remove the folder with all that is in it. Raises: as `open`."""
        with self.changing():
            aside = atomic.temporary(self.path)
            with atomic.storage(self.path, "cannot remove"):
                os.rename(self.path, aside)  # its writers find nothing, and nobody lists half of it
        shutil.rmtree(aside, ignore_errors=True)


@dataclass(slots=True)
class Change:
    """What a dataset holds, and how it is written back."""

    dataset: Dataset
    contents: Contents
    rows: dict[str, dict[str, Any]]
    """Of `metadata.jsonl`, by file name. Rows of files that are not ours stay as they are."""

    @classmethod
    def read(cls, dataset: Dataset) -> Self:
        """Raises: UsageError where there is no dataset; DataError, StorageError."""
        file = dataset.path / FILE
        try:
            data = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(dataset.path) from None
        except OSError as error:
            raise atomic.storage_error(error, file, "cannot read") from error
        return cls(dataset, read_json(data, Contents, file), _rows(dataset.images / TABLE))

    def captions(self) -> dict[str, str]:
        """By picture id, in order; '' where there is none."""
        return {picture.id: self.caption(picture) for picture in self.contents.pictures}

    def caption(self, picture: Picture) -> str:
        """The first, where a row was given several by hand."""
        value = self.rows.get(picture.file_name, {}).get(CAPTION, "")
        if isinstance(value, list):
            value = value[0] if value else ""
        return value if isinstance(value, str) else ""

    def set_caption(self, picture: Picture, text: str) -> None:
        self.rows[picture.file_name] = {
            metadata.KEY: picture.file_name,
            **self.rows.get(picture.file_name, {}),
            CAPTION: text,
        }

    def save_captions(self) -> None:
        lines = (json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") for row in self.rows.values())
        atomic.write(self.dataset.images / TABLE, b"".join(line + b"\n" for line in lines))

    def save_contents(self) -> None:
        atomic.write(self.dataset.path / FILE, write_json(self.contents))

    def whole(self) -> bool:
        """Whether every file is where it belongs."""
        listed = {picture.file_name for picture in self.contents.pictures}
        here = _names(self.dataset.images)
        ours = {name for name in here | self.rows.keys() if _ours(name)}
        thumbs = {picture.thumb_name for picture in self.contents.pictures}
        return listed <= here and ours <= listed and thumbs <= _names(self.dataset.thumbs)

    def mend(self) -> None:
        """Finish or take back what a killed writer left half done. Only while the dataset is held.

        Raises: DataError, StorageError.
        """
        dataset = self.dataset
        if not dataset.images.is_dir():
            raise DataError(f"{dataset.images} is gone, with the pictures in it", "put the folder back")
        with atomic.storage(dataset.path, "cannot tidy"):
            for folder in (dataset.images, dataset.thumbs, dataset.incoming, dataset.removed):
                folder.mkdir(exist_ok=True)
                atomic.sweep(folder)
            atomic.sweep(dataset.path)
            history = History.read(dataset.path)
            self._bring_in()
            removed = history.removed_files() - {picture.file_name for picture in self.contents.pictures}
            for name in sorted(removed & _names(dataset.images)):
                self.put_away(name)
            listed = {picture.thumb_name for picture in self.contents.pictures}
            for name in sorted(_names(dataset.thumbs) - listed):  # of a picture on its way out; it can be made again
                (dataset.thumbs / name).unlink()
            for name in sorted(_names(dataset.removed)):
                if name.partition(".")[0] not in {file.partition(".")[0] for file in removed}:
                    (dataset.removed / name).unlink(missing_ok=True)
            sweep(dataset.incoming)
        stale = [name for name in self.rows.keys() - _names(dataset.images) if _ours(name)]
        for name in stale:
            del self.rows[name]
        if stale:
            self.save_captions()

    def _bring_in(self) -> None:
        """Move every listed picture to its place; one that is nowhere is listed as gone."""
        dataset, lost = self.dataset, []
        here, thumbs = _names(dataset.images), _names(dataset.thumbs)
        for picture in self.contents.pictures:
            if picture.file_name not in here and not self._fetch(picture.file_name, dataset.images):
                lost.append(picture)
                continue
            if picture.thumb_name not in thumbs and not self._fetch(picture.thumb_name, dataset.thumbs):
                pictures.make_thumbnail(dataset.images / picture.file_name, dataset.thumbs / picture.thumb_name)
        if lost:
            kept = tuple(picture for picture in self.contents.pictures if picture not in lost)
            gone = tuple(Refused(picture.name, "its file was taken out of images/ by hand") for picture in lost)
            self.contents = replace(self.contents, pictures=kept, refused=self.contents.refused + gone)
            self.save_contents()

    def _fetch(self, name: str, target: Path) -> bool:
        """Move a file from where it waits."""
        for place in (*self.dataset.incoming.glob("*/"), self.dataset.removed):
            if (place / name).is_file():
                os.replace(place / name, target / name)
                return True
        return False

    def bring_back(self, picture: Picture) -> None:
        """From `.removed`. Raises: OSError."""
        os.replace(self.dataset.removed / picture.file_name, self.dataset.images / picture.file_name)
        with contextlib.suppress(FileNotFoundError):  # `mend` makes a thumbnail that is missing
            os.replace(self.dataset.removed / picture.thumb_name, self.dataset.thumbs / picture.thumb_name)

    def put_away(self, file_name: str) -> None:
        """To `.removed`, with its thumbnail. Raises: OSError."""
        thumb = Path(file_name).stem + ".webp"
        os.replace(self.dataset.images / file_name, self.dataset.removed / file_name)
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.dataset.thumbs / thumb, self.dataset.removed / thumb)


def _absent(path: Path) -> UsageError:
    return UsageError(f"there is no dataset at {path}", "`tuner dataset ls` lists them, `tuner dataset new` makes one")


def _ours(name: str) -> bool:
    """Whether a file of `images/` is called as ours are."""
    stem, dot, ending = name.partition(".")
    return len(stem) == 16 and dot + ending in (".png", ".jpg") and not stem.strip("0123456789abcdef")


def _names(folder: Path) -> set[str]:
    """The files in a folder; none where it is not there. Raises: StorageError."""
    try:
        with atomic.storage(folder, "cannot read"), os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except atomic.StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return set()
        raise


def _rows(file: Path) -> dict[str, dict[str, Any]]:
    """Raises: DataError naming every line that makes no sense; StorageError."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise atomic.storage_error(error, file, "cannot read") from error
    table = metadata.Table(str(file))
    rows: dict[str, dict[str, Any]] = {}
    for line, row in metadata.json_rows(data, table):
        try:
            rows[metadata.relative_path(row)] = row
        except metadata.BadRowError as error:
            table.problems.append((line, str(error)))
    if table.problems:
        problems = "\n".join(f"{file}:{line}: {reason}" for line, reason in sorted(table.problems)[:20])
        raise DataError(problems, "this file was changed by hand: mend these lines, or delete them")
    return rows
