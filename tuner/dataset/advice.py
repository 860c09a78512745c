"""What is worth a second look before training, in plain words. Advice changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..data.listing import count, some
from ..data.scan import MAX_ENLARGED
from . import likeness
from .crops import crop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..sections import DataOptions
    from .record import Picture

FEW = 5
"""Below this many pictures, a subject is learned with its background (Ruiz et al. 2022 use 3 to 5)."""
MANY_PAIRS = 2000
"""Up to this many pictures each is held against each."""
BLURRED = 0.4
"""Sharpness below which a picture looks blurred at 512 pixels. Photos that were taken with care have 1.5 to 3.5; a
Gaussian of one pixel leaves 0.4 to 0.7 of it, one of two at most 0.2."""

Kind = Literal["few", "alike", "near_duplicates", "blurred", "small", "cropped", "no_caption", "same_caption"]


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to look at."""

    kind: Kind
    text: str
    """What it is and what to do, in one or two sentences."""
    pictures: tuple[str, ...] = ()
    """Ids of the pictures that it is about."""


def advise(pictures: Sequence[Picture], captions: Mapping[str, str], data: DataOptions | None = None) -> list[Advice]:
    """Everything worth saying, the weightiest first.

    Args:
        pictures: of the dataset.
        captions: by id.
        data: the recipe's options, for what depends on the resolution; None leaves that out.
    """
    if not pictures:
        return []
    found = [*_number(pictures), *_likeness(pictures), *_captions(pictures, captions)]
    blurred = [one for one in pictures if one.sharpness < BLURRED]
    if blurred:
        text = f"{_these(blurred)} blurred: the model learns the blur, too. Use a sharper picture where you have one."
        found.append(Advice("blurred", text, _ids(blurred)))
    if data is not None:
        found += _sizes(pictures, data)
    return found


def near_duplicates(pictures: Sequence[Picture]) -> list[tuple[str, ...]]:
    """Groups of ids that look nearly the same, each of two or more, in the pictures' order."""
    import numpy as np

    pictures = pictures[:MANY_PAIRS]
    if len(pictures) < 2:
        return []
    bits, levels = likeness.distances(pictures)
    near = np.triu((bits <= likeness.MAX_BITS) & (levels <= likeness.MAX_TINY), 1)
    leader = list(range(len(pictures)))
    for one, other in zip(*np.nonzero(near), strict=True):
        old, new = leader[int(other)], leader[int(one)]
        if old != new:
            leader = [min(old, new) if group in (old, new) else group for group in leader]
    groups: dict[int, list[str]] = {}
    for picture, group in zip(pictures, leader, strict=True):
        groups.setdefault(group, []).append(picture.id)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _number(pictures: Sequence[Picture]) -> list[Advice]:
    if len(pictures) >= FEW:
        return []
    text = (
        f"Only {count(len(pictures), 'picture')}. Training works with so few, but the model also learns their "
        "background and pose; ten or more, in different places and light, give a freer result."
    )
    return [Advice("few", text)]


def _likeness(pictures: Sequence[Picture]) -> list[Advice]:
    names = {picture.id: picture.name for picture in pictures}
    groups = near_duplicates(pictures)
    inside = [id for group in groups for id in group]
    if len(pictures) >= FEW and groups and len(groups[0]) > 0.8 * min(len(pictures), MANY_PAIRS):
        text = (
            "Nearly all pictures look alike, so the model learns one picture by heart. "
            "Add others: another place, another angle, another light."
        )
        return [Advice("alike", text, tuple(inside))]
    found = []
    if groups:
        shown = some((" and ".join(names[id] for id in group[:3]) for group in groups), 5)
        text = (
            f"{count(len(groups), 'group')} of pictures that look nearly the same: {shown}. "
            "Each counts in full, so the model leans towards them; keep the best one of each."
        )
        found.append(Advice("near_duplicates", text, tuple(inside)))
    if len(pictures) > MANY_PAIRS:
        found.append(Advice("near_duplicates", f"Only the first {MANY_PAIRS} pictures were compared with each other."))
    return found


def _captions(pictures: Sequence[Picture], captions: Mapping[str, str]) -> list[Advice]:
    bare = [picture for picture in pictures if not captions.get(picture.id)]
    if bare:
        text = (
            f"{count(len(bare), 'picture')} without a caption. Write what is to be seen, or give the training one "
            "caption for all of them."
        )
        return [Advice("no_caption", text, _ids(bare))]
    if len(pictures) >= FEW and len(set(captions.values())) == 1:
        text = (
            "Every picture has the same caption. That teaches one subject; for a style, "
            "or to keep backgrounds apart from it, say what differs."
        )
        return [Advice("same_caption", text)]
    return []


def _sizes(pictures: Sequence[Picture], data: DataOptions) -> list[Advice]:
    crops = {picture.id: crop(picture.size, data) for picture in pictures}
    small = [one for one in pictures if crops[one.id].scale > MAX_ENLARGED]
    cropped = [one for one in pictures if crops[one.id].advice and one not in small]
    found = []
    if small:
        text = (
            f"{_these(small)} too small for a resolution of {data.resolution}: enlarged more than "
            f"{MAX_ENLARGED:g} times, they look soft. Use larger pictures, or a lower resolution."
        )
        found.append(Advice("small", text, _ids(small)))
    if cropped:
        text = (
            f"{_these(cropped)} cut by more than a third to fit. See how it is cropped, and crop it yourself where "
            "something that matters is lost."
        )
        found.append(Advice("cropped", text, _ids(cropped)))
    return found


def _these(pictures: Sequence[Picture]) -> str:
    names = some((picture.name for picture in pictures), 5)
    return f"{names} {'is' if len(pictures) == 1 else 'are'}"


def _ids(pictures: Sequence[Picture]) -> tuple[str, ...]:
    return tuple(picture.id for picture in pictures)
