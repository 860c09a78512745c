"""One look at each candidate: its digest, its header, and the caption that is its own."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError
from . import captions, images
from .listing import CaptionFrom, FileReader, Given, Picture, Refused, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look told."""

    digest: str
    """sha256 of the picture's bytes."""
    header: images.Header
    captions: tuple[str, ...]
    """Its own captions, clean; empty where it has none."""
    caption_from: CaptionFrom
    notes: tuple[str, ...]
    """What the user should know of this picture."""
    weights: tuple[float, ...] = ()
    """Of its captions, where they are drawn by weight."""


def look_at(pictures: Sequence[Picture], *, decode: bool) -> Iterator[tuple[Picture, Seen | Refused]]:
    """Every picture with what was seen of it, or why it is refused, in order; several are read at a time.

    Each file is read once. `decode` decodes it whole too, which is the only way to find missing data.
    """
    cores = os.cpu_count() or 1
    # The largest pictures take several hundred MB to decode, so only a few at a time.
    pool = ThreadPoolExecutor(min(4, cores) if decode else min(8, cores + 4), "look")
    try:
        yield from zip(pictures, pool.map(lambda picture: _look(picture, decode), pictures), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _look(picture: Picture, decode: bool) -> Seen | Refused:
    try:
        data = picture.read()
        header = images.read_header(data, picture.name)
        if decode and (size := images.decode(data, picture.name, "white").size) != header.size:
            raise DataError(f"the header says {header.width}x{header.height}, the picture is {size[0]}x{size[1]}")
        weights: tuple[float, ...] = ()
        if picture.mix:
            texts, weights, notes = _mixed(picture.mix)
            origin: CaptionFrom = "mix" if texts else "none"
        else:
            texts, origin, notes = _own_captions(picture)
        return Seen(hashlib.sha256(data).hexdigest(), header, texts, origin, (*header.notes, *notes), weights)
    except DataError as error:
        reason = error.message.removeprefix(f"{picture.name}: ")
        return Refused(picture.name, f"{reason}; {error.hint}" if error.hint else reason)


def _mixed(mix: Sequence[Given]) -> tuple[tuple[str, ...], tuple[float, ...], list[str]]:
    """The captions to draw from, their weights, and notes. What is not there leaves its share to the others.

    Raises: DataError if one of them cannot be used.
    """
    texts: list[str] = []
    weights: list[float] = []
    notes: list[str] = []
    lacking = []
    for given in mix:
        own = []
        for text, changes in _clean(given):
            notes += changes
            own += [text] if text else []
        texts += own
        weights += [given.weight / len(own) for _ in own]
        lacking += [] if own else [given.place]
    if texts:
        notes += [f"no caption from {place}, so the others of captions take its share" for place in lacking]
    return tuple(texts), tuple(weights), notes


def _clean(given: Given) -> Iterator[tuple[str, tuple[str, ...]]]:
    if given.sidecar:
        name = shown(given.sidecar.name)
        yield captions.read(FileReader(given.sidecar, name)(), name)
    for text in given.captions:
        yield captions.clean(text, f"its caption from {given.place}")


def _own_captions(picture: Picture) -> tuple[tuple[str, ...], CaptionFrom, list[str]]:
    """The captions of the .txt, else those of the table; where they are from; and notes.

    Raises: DataError if one of them cannot be used.
    """
    notes: list[str] = []
    if picture.sidecar:
        name = shown(picture.sidecar.name)
        text, changes = captions.read(FileReader(picture.sidecar, name)(), name)
        notes += changes
        if text and picture.captions and picture.captions != (text,):
            notes.append("the .txt counts, and not the row of the metadata file")
        if text:
            return (text,), "txt", notes
        notes.append("the .txt is empty, so the next caption that there is counts")
    texts = []
    for given in picture.captions:
        text, changes = captions.clean(given, "its caption")
        notes += changes
        if text:
            texts.append(text)
    if 0 < len(texts) < len(picture.captions):
        notes.append("empty captions among its alternatives are left out")
    return tuple(texts), picture.caption_from if texts else "none", notes
