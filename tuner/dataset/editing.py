"""Captions changed one by one or all together, and pictures taken out; all of it can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..atomic import storage
from ..data import captions
from ..data.listing import count
from ..errors import UsageError
from ..wording import quoted
from .edits import Edit, Prefix, Replace, Suffix, Trigger, Whole
from .history import History, Removed, Step

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from .record import Picture
    from .store import Change, Dataset

__all__ = [
    "Edit", "Edited", "Prefix", "Replace", "Suffix", "TakenBack", "Trigger", "Whole",
    "apply", "forget", "next_words", "preview", "redo", "remove", "undo",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Edited:
    """What an edit changes, or has changed."""

    what: str
    """In words."""
    before: Mapping[str, str]
    """Captions that change, by picture id, as they were."""
    after: Mapping[str, str]
    pictures: int
    """How many it looked at."""

    @property
    def changed(self) -> int:
        return len(self.after)


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What an undo or a redo did."""

    what: str
    """The edit, in words; '' where there was none."""
    captions: int = 0
    pictures: int = 0
    left: tuple[str, ...] = ()
    """Names of pictures that are left alone, since their captions were changed by something else meanwhile."""


def preview(dataset: Dataset, edit: Edit, only: Collection[str] | None = None) -> Edited:
    """What `apply` would do; nothing is written. Raises: as `apply`."""
    return _edited(dataset.look(), edit, only)


def apply(dataset: Dataset, edit: Edit, only: Collection[str] | None = None) -> Edited:
    """Change captions, all or none.

    Args:
        dataset: whose captions.
        edit: what to do with each.
        only: picture ids; None takes every picture.

    Raises: UsageError for an id that is not there; DataError where a caption gets too long; as `Dataset.open`.
    """
    with dataset.changing() as change:
        edited = _edited(change, edit, only)
        if edited.changed:
            _remember(dataset, Step(edited.what, edited.before, edited.after))
            _write(change, edited.after)
        return edited


def remove(dataset: Dataset, ids: Iterable[str]) -> Edited:
    """Take pictures out. They wait beside the others until the edit is forgotten, so that it can be taken back.

    Raises: UsageError for an id that is not there; as `Dataset.open`.
    """
    with dataset.changing() as change:
        chosen = {picture.id for picture in _chosen(change, tuple(ids))}
        out = [Removed(n, one) for n, one in enumerate(change.contents.pictures) if one.id in chosen]
        before = {one.picture.id: change.caption(one.picture) for one in out}
        step = Step(f"remove {count(len(out), 'picture')}", before, {}, tuple(out))
        if out:
            _remember(dataset, step)
            _take_out(change, step)
        return Edited(step.what, before, {}, len(out))


def undo(dataset: Dataset) -> TakenBack:
    """Take back the latest edit. Raises: as `Dataset.open`."""
    with dataset.changing() as change:
        history, step = History.read(dataset.path).back()
        if step is None:
            return TakenBack("")
        back = _restore(change, step) if step.removed else _swap(change, step.after, step.before, step.what)
        history.write(dataset.path)
        return back


def redo(dataset: Dataset) -> TakenBack:
    """Do again what was taken back last. Raises: as `Dataset.open`."""
    with dataset.changing() as change:
        history, step = History.read(dataset.path).again()
        if step is None:
            return TakenBack("")
        if not step.removed:
            told = _swap(change, step.before, step.after, step.what)
            history.write(dataset.path)
            return told
        history.write(dataset.path)  # first, so that files on their way out are known
        return TakenBack(step.what, pictures=_take_out(change, step))


def forget(dataset: Dataset) -> None:
    """Forget every edit; pictures that were taken out are gone for good. Raises: as `Dataset.open`."""
    with dataset.changing() as change:
        History().write(dataset.path)
        change.mend()


def next_words(dataset: Dataset) -> tuple[str, str]:
    """What `undo` and `redo` would do, in words; '' for nothing. Raises: DataError, StorageError."""
    history = History.read(dataset.path)
    return (
        history.done[-1].what if history.done else "",
        history.undone[-1].what if history.undone else "",
    )


def note_captions(change: Change, what: str, after: Mapping[str, str]) -> None:
    """Remember that captions are about to change, and change them; the caller saves.

    For whoever holds the dataset already. Raises: DataError, StorageError.
    """
    by_id = {picture.id: picture for picture in change.contents.pictures}
    before = {id: change.caption(by_id[id]) for id in after}
    _remember(change.dataset, Step(what, before, dict(after)))
    for id, text in after.items():
        change.set_caption(by_id[id], text)


def _edited(change: Change, edit: Edit, only: Collection[str] | None) -> Edited:
    looked_at = _chosen(change, only)
    before, after = {}, {}
    for picture in looked_at:
        old = change.caption(picture)
        new, _ = captions.clean(edit(old), picture.name)
        if new != old:
            before[picture.id], after[picture.id] = old, new
    what = f"{edit} ({count(len(after), 'caption')})"
    return Edited(what, before, after, len(looked_at))


def _chosen(change: Change, only: Collection[str] | None) -> list[Picture]:
    everything = change.contents.pictures
    if only is None:
        return list(everything)
    missing = set(only) - {picture.id for picture in everything}
    if missing:
        raise UsageError(
            f"the dataset has no picture {quoted(min(missing))}", "it may have been removed: look at the dataset again"
        )
    return [picture for picture in everything if picture.id in only]


def _remember(dataset: Dataset, step: Step) -> None:
    """Written before anything is done: a step whose captions are still as before takes back nothing."""
    old = History.read(dataset.path)
    new = old.plus(step)
    new.write(dataset.path)
    with storage(dataset.removed, "cannot remove"):
        for name in old.removed_files() - new.removed_files():
            for file in dataset.removed.glob(f"{name.partition('.')[0]}.*"):
                file.unlink(missing_ok=True)


def _write(change: Change, after: Mapping[str, str]) -> None:
    by_id = {picture.id: picture for picture in change.contents.pictures}
    for id, text in after.items():
        change.set_caption(by_id[id], text)
    change.save_captions()


def _swap(change: Change, now: Mapping[str, str], then: Mapping[str, str], what: str) -> TakenBack:
    """Captions that read as `now` says read as `then` says afterwards."""
    by_id = {picture.id: picture for picture in change.contents.pictures}
    wanted, left = {}, []
    for id, text in then.items():
        picture = by_id.get(id)
        if picture is None or (current := change.caption(picture)) == text:
            continue
        if current == now[id]:
            wanted[id] = text
        else:
            left.append(picture.name)
    if wanted:
        _write(change, wanted)
    return TakenBack(what, captions=len(wanted), left=tuple(left))


def _take_out(change: Change, step: Step) -> int:
    gone = {removed.picture.id for removed in step.removed}
    there = [picture for picture in change.contents.pictures if picture.id in gone]
    change.contents = replace(
        change.contents, pictures=tuple(picture for picture in change.contents.pictures if picture.id not in gone)
    )
    change.save_contents()
    for picture in there:
        change.rows.pop(picture.file_name, None)
    change.save_captions()
    with storage(change.dataset.removed):
        for picture in there:
            change.put_away(picture.file_name)
    return len(there)


def _restore(change: Change, step: Step) -> TakenBack:
    """Put pictures back where they stood, with their captions."""
    listed = list(change.contents.pictures)
    here = {picture.id for picture in listed}
    back = [
        removed
        for removed in step.removed
        if removed.picture.id not in here and (change.dataset.removed / removed.picture.file_name).is_file()
    ]
    for removed in back:
        listed.insert(removed.place, removed.picture)
        change.set_caption(removed.picture, step.before.get(removed.picture.id, ""))
    change.save_captions()
    change.contents = replace(change.contents, pictures=tuple(listed))
    change.save_contents()
    with storage(change.dataset.images):
        for removed in back:
            change.bring_back(removed.picture)
    lost = tuple(one.picture.name for one in step.removed if one not in back and one.picture.id not in here)
    return TakenBack(step.what, pictures=len(back), left=lost)
