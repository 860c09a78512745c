"""The datasets of a workspace as a page shows them."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner import atomic
from tuner.dataset import Dataset
from tuner.dataset.advice import Advice, advise, near_duplicates
from tuner.dataset.crops import Crop, crop
from tuner.dataset.editing import next_words
from tuner.dataset.words import Word, words
from tuner.errors import TunerError

from .workspace import Workspace, fresh_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuner.data.listing import Refused
    from tuner.dataset.record import Picture, Waiting
    from tuner.sections import DataOptions

_OLD_S = 3600


@dataclass(frozen=True, slots=True)
class Row:
    """One dataset in a list."""

    id: str
    name: str
    pictures: int
    changed_s: float
    """Unix time."""
    problem: str = ""
    """Why it cannot be opened."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is kept of a picture, in percent of it."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Card:
    """One picture."""

    id: str
    name: str
    caption: str
    thumb: str
    """Address of its thumbnail."""
    full: str
    """Address of the picture."""
    width: int
    height: int
    note: str
    """What the user should know of it; '' for nothing."""
    crop: Frame | None = None
    """None where all of it is kept, or nothing was asked."""
    cropped: Crop | None = None
    """The same in pixels, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class DatasetPage:
    """One dataset."""

    id: str
    name: str
    images: str
    """The folder that a recipe names."""
    cards: tuple[Card, ...]
    uncaptioned: int
    words: tuple[Word, ...]
    refused: tuple[Refused, ...]
    """The latest first."""
    refused_before: int
    waiting: tuple[Waiting, ...]
    twins: tuple[tuple[Card, ...], ...]
    """Groups that look nearly the same."""
    advice: tuple[Advice, ...]
    undo: str
    """What can be taken back, in words; '' for nothing."""
    redo: str


def open_dataset(workspace: Workspace, id: str) -> Dataset:
    """Raises: UnknownId."""
    return Dataset(workspace.dataset(id))


def make(workspace: Workspace, name: str) -> str:
    """A new dataset; gives its id. Raises: UsageError for a name that is none; StorageError."""
    id = fresh_id()
    Dataset.new(workspace.datasets / id, name)
    return id


def tidy(workspace: Workspace) -> None:
    """Put in order what a killed server left in any dataset; for the server's start. Raises: StorageError."""
    for path in workspace.datasets.iterdir():
        # of a dataset that was being deleted, or made; the latter takes no time, so an old one has no maker any more
        if atomic.TEMPORARY.match(path.name) and time.time() - path.stat().st_mtime > _OLD_S:
            shutil.rmtree(path, ignore_errors=True)
    for row in rows(workspace):
        if not row.problem:
            Dataset.open(workspace.dataset(row.id))


def rows(workspace: Workspace) -> list[Row]:
    """Every dataset, the one changed last first. Raises: StorageError."""
    found = []
    for path in workspace.datasets.iterdir():
        if path.name.startswith(".") or not path.is_dir():
            continue
        try:
            contents = Dataset(path).contents()
            changed_s = max(one.stat().st_mtime for one in (path, path / "images", path / "dataset.json"))
        except TunerError as error:
            found.append(Row(path.name, path.name, 0, 0.0, error.message))
            continue
        except FileNotFoundError:  # deleted meanwhile
            continue
        found.append(Row(path.name, contents.name, len(contents.pictures), changed_s))
    return sorted(found, key=lambda row: (-row.changed_s, row.id))


def page(workspace: Workspace, id: str, data: DataOptions | None = None) -> DatasetPage:
    """One dataset; with the options of a recipe, how each picture is cropped under them.

    Raises: UnknownId; DataError where its files make no sense; StorageError.
    """
    dataset = open_dataset(workspace, id)
    found = dataset.look()
    contents, captions = found.contents, found.captions()
    cards = {picture.id: _card(id, picture, captions, data) for picture in contents.pictures}
    undo, redo = next_words(dataset)
    return DatasetPage(
        id=id,
        name=contents.name,
        images=str(dataset.images),
        cards=tuple(cards.values()),
        uncaptioned=sum(not caption for caption in captions.values()),
        words=tuple(words(captions.values())),
        refused=contents.refused[::-1],
        refused_before=contents.refused_before,
        waiting=contents.waiting,
        twins=tuple(tuple(cards[one] for one in group) for group in near_duplicates(contents.pictures)),
        advice=tuple(advise(contents.pictures, captions, data)),
        undo=undo,
        redo=redo,
    )


def _card(dataset: str, picture: Picture, captions: Mapping[str, str], data: DataOptions | None) -> Card:
    cropped = crop(picture.size, data) if data is not None else None
    notes = [*picture.notes, *([cropped.advice] if cropped and cropped.advice else [])]
    return Card(
        id=picture.id,
        name=picture.name,
        caption=captions[picture.id],
        thumb=f"/media/thumb/{dataset}/{picture.id}",
        full=f"/media/picture/{dataset}/{picture.id}",
        width=picture.width,
        height=picture.height,
        note="; ".join(notes),
        crop=_frame(picture, cropped) if cropped and cropped.kept < 0.999 else None,
        cropped=cropped,
    )


def _frame(picture: Picture, cropped: Crop) -> Frame:
    left, top, right, bottom = cropped.box
    wide, high = 100 / picture.width, 100 / picture.height
    return Frame(*(round(one, 3) for one in (left * wide, top * high, (right - left) * wide, (bottom - top) * high)))
