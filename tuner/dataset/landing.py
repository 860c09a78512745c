"""The moment at which judged files become part of a dataset, all of a batch under one hold of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..atomic import storage
from ..data.listing import Refused, some
from ..wording import quoted
from . import editing, names
from .limits import MAX_PICTURES
from .record import MAX_REFUSED, Picture, Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .store import Change, Dataset

MAX_WAITING = 10_000
_FULL = "the dataset is full: {:,} pictures are the limit"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one dropped file."""

    name: str
    """As it is shown."""
    accepted: bool
    reason: str = ""
    """Why it is not used, and what to do."""
    notes: tuple[str, ...] = ()
    """What the user should know of it."""
    kind: Literal["picture", "caption", "captions", "zip", "other"] = "other"
    picture: str = ""
    """Id of the picture that it became, that it captions, or that it is a copy of."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption that looks for its picture."""

    name: str
    key: str
    suffix: str
    """Of the picture, where it is known; '' for a .txt."""
    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A picture whose files are ready, with the caption that came beside it."""

    picture: Picture
    caption: Caption | None = None


Judged = Made | Caption | Verdict


def land(dataset: Dataset, folder: Path, judged: Sequence[Judged]) -> list[Verdict]:
    """Take in what was judged, in order; a verdict each. Refused files are remembered in the dataset.

    Args:
        dataset: where to.
        folder: holds the files of every `Made`.
        judged: what to take in.

    Raises: as `Dataset.open`.
    """
    if not judged:
        return []
    with dataset.changing() as change:
        before, captions = change.contents, _texts(change)
        known = {picture.pixels: picture for picture in before.pictures}
        verdicts: list[Verdict] = []
        landed: list[Picture] = []
        for one in judged:
            if isinstance(one, Verdict):
                verdicts.append(one)
            elif isinstance(one, Caption):
                verdicts.append(_place_caption(change, one))
            else:
                verdict = _place_picture(change, one, known)
                landed += [one.picture] if verdict.accepted else []
                verdicts.append(verdict)
        _remember_refused(change, verdicts)
        if _texts(change) != captions:
            change.save_captions()
        if change.contents != before:
            change.save_contents()
        with storage(dataset.images):
            for picture in landed:
                os.replace(folder / picture.file_name, dataset.images / picture.file_name)
                os.replace(folder / picture.thumb_name, dataset.thumbs / picture.thumb_name)
        return verdicts


def _texts(change: Change) -> dict[str, object]:
    return dict(change.rows)


def _place_picture(change: Change, made: Made, known: dict[str, Picture]) -> Verdict:
    picture, contents = made.picture, change.contents
    if twin := known.get(picture.pixels):
        reason = f"an exact copy of {twin.name}, which is here already"
        return Verdict(picture.name, accepted=False, reason=reason, kind="picture", picture=twin.id)
    if len(contents.pictures) >= MAX_PICTURES:
        return Verdict(picture.name, accepted=False, reason=_FULL.format(MAX_PICTURES), kind="picture")
    notes = picture.notes
    caption, waiting = made.caption, contents.waiting
    if caption is None and (found := _waiting_for(picture, waiting)):
        caption = Caption(found.name, found.key, found.suffix, found.text)
        waiting = tuple(one for one in waiting if one is not found)
    if caption is not None:
        notes = (*notes, *caption.notes)
    change.set_caption(picture, caption.text if caption else "")
    change.contents = replace(contents, pictures=(*contents.pictures, picture), waiting=waiting)
    known[picture.pixels] = picture
    return Verdict(picture.name, accepted=True, notes=notes, kind="picture", picture=picture.id)


def _waiting_for(picture: Picture, waiting: Sequence[Waiting]) -> Waiting | None:
    """The caption that waits for a picture; a .txt before a row of a table, as in training."""
    found = [one for one in waiting if one.suffix in ("", picture.suffix)]
    exact = [one for one in found if one.key == picture.key] or [one for one in found if near(one.key, picture.key)]
    return min(exact, key=lambda one: one.suffix, default=None)


def near(one: str, other: str) -> bool:
    """Whether two keys have the same stem and at most one of them says in which folder."""
    return names.last(one) == names.last(other) and ("/" not in one or "/" not in other)


def _place_caption(change: Change, caption: Caption) -> Verdict:
    contents = change.contents
    found = [one for one in contents.pictures if caption.suffix in ("", one.suffix)]
    matches = [one for one in found if one.key == caption.key] or [one for one in found if near(one.key, caption.key)]
    if len(matches) > 1:
        pictures = some((one.name for one in matches), 3)
        reason = f"{len(matches)} pictures have that name ({pictures}); write their captions in the dataset"
        return Verdict(caption.name, accepted=False, reason=reason, kind="caption")
    if matches:
        return _give(change, matches[0], caption)
    others = tuple(one for one in contents.waiting if (one.key, one.suffix) != (caption.key, caption.suffix))
    if len(others) >= MAX_WAITING:
        reason = f"{MAX_WAITING:,} captions wait for their pictures already; drop the pictures first"
        return Verdict(caption.name, accepted=False, reason=reason, kind="caption")
    notes = (*caption.notes, "waits for the picture of that name")
    if len(others) < len(contents.waiting):
        notes = (*notes, "takes the place of an earlier one that waited")
    waits = Waiting(caption.name, caption.key, caption.suffix, caption.text)
    change.contents = replace(contents, waiting=(*others, waits))
    return Verdict(caption.name, accepted=True, notes=notes, kind="caption")


def _give(change: Change, picture: Picture, caption: Caption) -> Verdict:
    old, notes = change.caption(picture), (*caption.notes, f"captions {picture.name}")
    if old and old != caption.text:
        notes = (*notes, f"in place of {quoted(old)}")
        editing.note_captions(change, f"caption of {picture.name} from {caption.name}", {picture.id: caption.text})
    else:
        change.set_caption(picture, caption.text)
    return Verdict(caption.name, accepted=True, notes=notes, kind="caption", picture=picture.id)


def _remember_refused(change: Change, verdicts: Sequence[Verdict]) -> None:
    new = [Refused(verdict.name, verdict.reason) for verdict in verdicts if not verdict.accepted]
    if not new:
        return
    contents = change.contents
    refused = (*contents.refused, *new)
    over = max(0, len(refused) - MAX_REFUSED)
    change.contents = replace(contents, refused=refused[over:], refused_before=contents.refused_before + over)


def forget_refused(dataset: Dataset) -> int:
    """Empty the list of refused files; gives how many were on it and before it. Raises: as `Dataset.open`."""
    with dataset.changing() as change:
        forgotten = len(change.contents.refused) + change.contents.refused_before
        change.contents = replace(change.contents, refused=(), refused_before=0)
        change.save_contents()
    return forgotten
