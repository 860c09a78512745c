"""Pairs of pictures as examples: the two of a pair have one uid, one caption and one place in their roles."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import DataError
from . import buckets
from .listing import Refused, some
from .look import look_at
from .pair_files import list_pairs
from .scan import CheckedReader, Example, Scan
from .sources import CHOSEN, REJECTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..watch import Watcher
    from .look import Seen
    from .order import Bucket
    from .pair_files import Pair, PairListing
    from .scan import SourceLook
    from .sources import PairSource

Looked = tuple["Pair", "Seen", "Seen"]
"""A pair with what was seen of its chosen and its rejected picture."""


def look_at_pairs(
    look: SourceLook, source: PairSource, have: Mapping[str, Sequence[Example]], *, decode: bool, watcher: Watcher
) -> Scan:
    """The pairs of one source: example i of the one role belongs to example i of the other.

    Args:
        look: how its pictures become examples.
        source: where they are.
        have: examples that the roles have already, so that repeated pairs are told apart.
        decode, watcher: as for `scan`.

    Raises: DataError where no pair can be used, or pairs have no caption.
    """
    listing = list_pairs(source, look.label)
    result = Scan({CHOSEN: [], REJECTED: []}, list(listing.refused), list(listing.notes))
    remarks: dict[str, list[str]] = {}
    watcher.phase(f"looking at {look.label}", len(listing.pairs))
    good = [pair for pair in _looked(listing, remarks, result.refused, decode, watcher) if _sound(pair, result.refused)]
    if not good:
        lines = [f"{look.label}: no pair can be used", *(f"{r.name}: {r.reason}" for r in result.refused)]
        raise DataError("\n".join(lines), "put usable pairs there, or name another folder")
    spoken = [(pair.chosen, _with_caption(chosen, rejected)) for pair, chosen, rejected in good]
    preferred = list(look.captioned(spoken, remarks))
    _remark_on_sizes(good, remarks)
    _remark_on_contradictions(good, preferred, remarks)
    copies = Counter(example.uid.partition("-")[0] for example in have.get(CHOSEN, ()))
    for (pair, chosen, rejected), example in zip(good, preferred, strict=True):
        uid = hashlib.sha256(f"{chosen.digest} {rejected.digest}".encode()).hexdigest()[:16]
        if copies[uid]:
            remarks.setdefault("pairs that are there more than once, each counted", []).append(pair.name)
        own = f"{uid}-{copies[uid]}" if copies[uid] else uid
        copies[uid] += 1
        result.examples[CHOSEN].append(replace(example, uid=own, role=CHOSEN))
        reader = CheckedReader(pair.rejected.read, rejected.digest, pair.rejected.name)
        other = {"digest": rejected.digest, "name": pair.rejected.name, "size": rejected.header.size, "read": reader}
        result.examples[REJECTED].append(replace(example, uid=own, role=REJECTED, **other))
    look.remark_on_shape(_with_sizes(look, result), remarks)
    result.notes += [f"{look.label}: {note}: {some(names)}" for note, names in remarks.items()]
    result.notes += look.counts(preferred, "pair")
    return result


def _looked(
    listing: PairListing, remarks: dict[str, list[str]], refused: list[Refused], decode: bool, watcher: Watcher
) -> list[Looked]:
    """The pairs whose two pictures can both be used; the others join `refused`."""
    pictures = [picture for pair in listing.pairs for picture in (pair.chosen, pair.rejected)]
    found = []
    looks = look_at(pictures, decode=decode)
    for done, pair in enumerate(listing.pairs, 1):
        (first, chosen), (second, rejected) = next(looks), next(looks)
        watcher.progress(done)
        for picture, outcome in ((first, chosen), (second, rejected)):
            if isinstance(outcome, Refused):
                refused.append(outcome)
                continue
            for note in outcome.notes:
                remarks.setdefault(note, []).append(picture.name)
        if isinstance(chosen, Refused) or isinstance(rejected, Refused):
            if type(chosen) is not type(rejected):
                bad, left = (first, second) if isinstance(chosen, Refused) else (second, first)
                refused.append(Refused(left.name, f"its partner {bad.name} cannot be used"))
            continue
        found.append((pair, chosen, rejected))
    return found


def _sound(looked: Looked, refused: list[Refused]) -> bool:
    """Whether a pair says something; joins `refused` where it does not."""
    pair, chosen, rejected = looked
    if chosen.digest == rejected.digest:
        refused.append(Refused(pair.name, f"{pair.chosen.name} and {pair.rejected.name} are the same picture"))
        return False
    if chosen.captions and rejected.captions and chosen.captions != rejected.captions:
        said = f"{chosen.captions[0][:60]!r} and {rejected.captions[0][:60]!r}"
        refused.append(Refused(pair.name, f"its pictures have different captions, {said}; a pair has one"))
        return False
    return True


def _with_caption(chosen: Seen, rejected: Seen) -> Seen:
    """The chosen picture under the caption of the pair, which may lie beside the rejected one."""
    if chosen.captions or not rejected.captions:
        return chosen
    return replace(chosen, captions=rejected.captions, caption_from=rejected.caption_from, weights=rejected.weights)


def _remark_on_sizes(pairs: Sequence[Looked], remarks: dict[str, list[str]]) -> None:
    for pair, chosen, rejected in pairs:
        if chosen.header.size != rejected.header.size:
            sizes = " and ".join(f"{seen.header.width}x{seen.header.height}" for seen in (chosen, rejected))
            note = "of two sizes, so the rejected picture is scaled and cut to the chosen one's bucket"
            remarks.setdefault(note, []).append(f"{pair.name} ({sizes})")


def _remark_on_contradictions(
    pairs: Sequence[Looked], preferred: Sequence[Example], remarks: dict[str, list[str]]
) -> None:
    told = {
        (chosen.digest, rejected.digest, example.captions)
        for (_, chosen, rejected), example in zip(pairs, preferred, strict=True)
    }
    for (pair, chosen, rejected), example in zip(pairs, preferred, strict=True):
        if (rejected.digest, chosen.digest, example.captions) in told:
            note = "preferred the other way round in another pair, so that the two cancel out"
            remarks.setdefault(note, []).append(pair.name)


def _with_sizes(look: SourceLook, found: Scan) -> list[tuple[Example, Bucket]]:
    """Each picture with the size that it is scaled and cut to: that of its pair's chosen one."""
    targets = [buckets.size_for(example.size, look.data) for example in found.examples[CHOSEN]]
    return [(e, target) for role in (CHOSEN, REJECTED) for e, target in zip(found.examples[role], targets, strict=True)]
