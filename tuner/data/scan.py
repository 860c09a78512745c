"""Which pictures a run learns from, with their captions: everything is found, looked at once, and accounted for."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import DataError
from . import buckets, captions, held_out, said
from .folder import list_pictures, locate
from .listing import CaptionFrom, Listing, Picture, Refused, count, shown, some
from .look import Seen, look_at
from .sources import PairSource, PriorSource, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ..recipe import Recipe
    from ..sections import DataOptions
    from ..watch import Watcher
    from .order import Bucket

MAX_ENLARGED = 2.0
"""Pictures that are enlarged more than this are noted."""
MIN_KEPT = 0.6
"""Pictures of which the crop leaves less than this share are noted."""

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)

__all__ = ["Example", "Refused", "Scan", "scan", "scan_folder"]


@dataclass(frozen=True, slots=True)
class Example:
    """One picture and its captions. Its bytes are read again when they are needed."""

    uid: str
    """First 16 hex digits of `digest`; an exact duplicate within a role gets -1, -2 behind it."""
    digest: str
    """sha256 of the file's bytes."""
    name: str
    """For messages."""
    role: str
    size: tuple[int, int]
    """(W, H) in pixels, upright."""
    captions: tuple[str, ...]
    """Alternatives, usually one; the trigger is in them."""
    repeats: int
    """Visits in an epoch."""
    weight: float
    """Of its loss, against the others of its role."""
    read: Callable[[], bytes]
    """The bytes of `digest`. Raises DataError if they are gone or have changed since the scan."""
    caption_from: CaptionFrom
    caption_weights: tuple[float, ...] = ()
    """How often each of its captions is read, against the others; empty where all are alike."""


@dataclass(slots=True)
class Scan:
    """What was found. Every candidate is in `examples` or in `refused`; `notes` say the rest."""

    examples: dict[str, list[Example]] = field(default_factory=dict)
    """By role, in natural order within each source."""
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CheckedReader:
    """Reads a picture and makes sure that it is still the one that was scanned."""

    read: Callable[[], bytes]
    digest: str
    name: str

    def __call__(self) -> bytes:
        data = self.read()
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise DataError(f"{self.name}: has changed since it was looked at", "start the same command again")
        return data


def scan(recipe: Recipe, *, decode: bool, watcher: Watcher) -> Scan:
    """Every example of a recipe, by role. A role that mirrors another has no pictures of its own and is not in it.

    Held-out pictures are under a name of their own, `held_out.ROLE`, and in no other role.

    Args:
        recipe: what to look for; only its task and data count.
        decode: decode each picture whole, which finds truncated files, instead of reading its header alone.
        watcher: sees the progress; what was found is in the result and is not said to it.

    Raises: DataError if a role that needs pictures has none, or pictures without a caption, or none can be held out.
    """
    result, faults = Scan(), []
    first = next(iter(recipe.task.sources))
    mirrored = {role.name for role in recipe.task.roles(recipe.sources) if role.mirrors}
    places: dict[str, tuple[str, Sequence[Source]]] = {
        name: (f"data.{name}", given)
        for name in recipe.task.sources
        if name not in mirrored and (given := recipe.sources.get(name))
    }
    if recipe.validation and recipe.validation.images:
        places[held_out.ROLE] = ("validation.images", recipe.validation.images)
    for name, (key, sources) in places.items():
        for number, source in enumerate(sources):
            label = key + (f".{number}" if len(sources) > 1 else "")
            look = SourceLook(name, source, recipe.data, label, trigger=name in (first, held_out.ROLE))
            try:
                part = _examined(look, result.examples, decode=decode, watcher=watcher)
            except DataError as error:
                faults.append(error)
                continue
            for role, members in part.examples.items():
                result.examples.setdefault(role, []).extend(members)
            result.refused += part.refused
            result.notes += part.notes
    if faults:
        raise DataError("\n".join(error.message for error in faults), next((e.hint for e in faults if e.hint), ""))
    result.notes += said.require((word for adapter in recipe.adapters for word in adapter.words()), result.examples)
    if recipe.validation and recipe.validation.hold_out:
        result.notes.append(held_out.draw(result.examples, first, recipe.validation.hold_out, recipe.train.seed))
    result.refused += held_out.refuse_trained(result.examples)
    return result


def scan_folder(
    folder: Path,
    source: Source,
    role: str,
    data: DataOptions,
    *,
    watcher: Watcher,
    decode: bool = False,
    label: str = "",
    after: Sequence[Example] = (),
) -> Scan:
    """The examples of one folder, such as that of generated class pictures, under `source`'s caption and weight.

    Args:
        folder: where to look, whatever the source's own path.
        source: gives caption, caption column, repeats and weight.
        role: the role that the examples play.
        data: options of the data section.
        watcher: sees the progress.
        decode: as for `scan`.
        label: the recipe's key, for messages; `data.<role>` where empty.
        after: examples that the role has already, so that duplicates of them are told apart.

    Raises: DataError as `scan`.
    """
    look = SourceLook(role, source, data, label or f"data.{role}", trigger=False)
    listing = list_pictures(folder, look.label, source.caption_column, mix=source.captions)
    return look.at(listing, after, decode=decode, watcher=watcher)


def _examined(look: SourceLook, have: Mapping[str, Sequence[Example]], *, decode: bool, watcher: Watcher) -> Scan:
    """What a source gives each of its roles, beyond the examples that they have."""
    if isinstance(look.source, PairSource):
        from .pairs import look_at_pairs

        return look_at_pairs(look, look.source, have, decode=decode, watcher=watcher)
    listing = _candidates(look.source, look.label)
    return look.at(listing, have.get(look.role, ()), decode=decode, watcher=watcher)


def _candidates(source: Source, label: str) -> Listing:
    if source.dataset is not None:
        from .hub import list_rows

        return list_rows(source, label)
    if source.path is None:  # every picture of this source is generated
        return Listing()
    place = locate(source.path, f"{label}.path")
    return list_pictures(place, label, source.caption_column, shown_as=shown(source.path), mix=source.captions)


@dataclass(frozen=True, slots=True)
class SourceLook:
    """How the pictures of one source become examples."""

    role: str
    """Or the key of the source, where its pictures play several roles."""
    source: Source
    data: DataOptions
    label: str
    trigger: bool
    """Whether the trigger belongs in front of these captions."""

    def at(self, listing: Listing, after: Sequence[Example], *, decode: bool, watcher: Watcher) -> Scan:
        result = Scan({self.role: []}, list(listing.refused), list(listing.notes))
        seen: list[tuple[Picture, Seen]] = []
        remarks: dict[str, list[str]] = {}
        watcher.phase(f"looking at {self.label}", len(listing.pictures))
        for done, (picture, outcome) in enumerate(look_at(listing.pictures, decode=decode), 1):
            watcher.progress(done)
            if isinstance(outcome, Refused):
                result.refused.append(outcome)
                continue
            seen.append((picture, outcome))
            for note in outcome.notes:
                remarks.setdefault(note, []).append(picture.name)
        if not seen and not (isinstance(self.source, PriorSource) and self.source.generate):
            lines = [f"{self.label}: no picture can be used", *(f"{r.name}: {r.reason}" for r in result.refused)]
            raise DataError("\n".join(lines), "put usable pictures there, or name another folder")
        found = result.examples[self.role]
        found += self.captioned(seen, remarks)
        self._number(found, after, remarks)
        self.remark_on_shape(((e, buckets.size_for(e.size, self.data)) for e in found), remarks)
        result.notes += [f"{self.label}: {note}: {some(names)}" for note, names in remarks.items()]
        result.notes += self.counts(found)
        return result

    def captioned(self, seen: Sequence[tuple[Picture, Seen]], remarks: dict[str, list[str]]) -> Iterator[Example]:
        """Each picture with the captions that count: its .txt, then its row, then the recipe's.

        Raises: DataError naming every picture that has none.
        """
        own: list[str] = []
        for text in self.source.spoken:
            cleaned, changes = captions.clean(text, key := f"{self.label}.caption")
            own.append(cleaned)
            for change in changes:
                remarks[change] = [key]
        bare = []
        for picture, facts in seen:
            texts, origin = (facts.captions, facts.caption_from) if self.source.own_captions else ((), "none")
            if not texts:
                texts, origin = (tuple(own), "recipe") if own else (("",), "none")
                if not own and not (self.data.caption_dropout == 1 or (self.trigger and self.data.trigger)):
                    bare.append(picture.name)
            if self.trigger:
                texts = tuple(captions.with_trigger(text, self.data.trigger) for text in texts)
            yield Example(
                uid=facts.digest[:16],
                digest=facts.digest,
                name=picture.name,
                role=self.role,
                size=facts.header.size,
                captions=texts,
                repeats=self.source.repeats,
                weight=self.source.weight,
                read=CheckedReader(picture.read, facts.digest, picture.name),
                caption_from=origin,
                caption_weights=facts.weights,
            )
        if bare:
            raise DataError(
                f"{self.label}: {count(len(bare), 'picture')} without a caption: {some(bare)}",
                f"give {self.label}.caption or write a .txt beside each",
            )

    def _number(self, found: list[Example], after: Sequence[Example], remarks: dict[str, list[str]]) -> None:
        """Tell exact duplicates within the role apart by -1, -2 behind their uid."""
        copies = Counter(example.digest for example in after)
        for place, example in enumerate(found):
            if earlier := copies[example.digest]:
                found[place] = replace(example, uid=f"{example.uid}-{earlier}")
                remarks.setdefault("exact copies of other pictures, each counted", []).append(example.name)
            copies[example.digest] += 1

    def remark_on_shape(self, found: Iterable[tuple[Example, Bucket]], remarks: dict[str, list[str]]) -> None:
        """Note what is lost of pictures on their way to the size that each is scaled and cut to."""
        for example, target in found:
            soft = buckets.scale_to(example.size, target) > MAX_ENLARGED
            cut = buckets.kept(example.size, target) < MIN_KEPT
            sided = self.data.flip and any(_SIDES.search(text) for text in example.captions)
            faults = {
                f"enlarged more than {MAX_ENLARGED:g} times, which looks soft": soft,
                f"the crop leaves less than {MIN_KEPT:.0%}": cut,
                "shown mirrored by flip: true, but the caption says left or right": sided,
            }
            size = f"{example.name} ({example.size[0]}x{example.size[1]})"
            for fault in (text for text, true in faults.items() if true):
                remarks.setdefault(fault, []).append(size)

    def counts(self, found: Sequence[Example], noun: str = "picture") -> list[str]:
        """How many there are, and where their captions are from."""
        words = {
            "txt": "from .txt",
            "metadata": "from the metadata file",
            "column": f"from the column {self.source.caption_column}",
            "mix": f"drawn by weight from {', '.join(choice.place for choice in self.source.captions or ())}",
            "recipe": f"from {self.label}.caption"
            + (f" in one of {len(self.source.spoken)} templates" if self.source.templates else ""),
            "none": "missing" + (", so it is the trigger alone" if self.trigger and self.data.trigger else ""),
        }
        origins = Counter(example.caption_from for example in found)
        parts = [f"{origins[origin]} {text}" for origin, text in words.items() if origins[origin]]
        notes = [f"{self.label}: {count(len(found), noun)}; captions: {', '.join(parts)}"] if parts else []
        empty = [example.name for example in found if not any(example.captions)]
        if empty and self.data.caption_dropout < 1:
            notes.append(f"{self.label}: {count(len(empty), 'caption')} empty: {some(empty)}")
        return notes
