"""What the pictures and captions of a run come to: buckets, what is cut off, text that will not fit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..data.scan import Example
    from ..sections import DataOptions

WORDS = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_+")
"""Pieces that CLIP's tokeniser never joins: runs of letters, single digits, runs of punctuation."""
LETTERS_A_TOKEN = 7
"""About how many letters of a word one token holds; most words of up to seven letters are one token."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Pictures of the first role that are scaled to one size."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    pictures: int
    cropped: float
    """Average share of a picture's area that is cut away, 0 to 1."""
    cropped_most: float
    """The largest such share."""
    enlarged: int
    """Pictures smaller than the bucket, which have to be scaled up."""


@dataclass(frozen=True, slots=True)
class Captions:
    """Where the captions come from and whether they fit."""

    sources: Mapping[str, int]
    """Number of pictures by where their caption comes from."""
    unique: int
    """Different texts."""
    window: int
    """Tokens that a caption may have."""
    long: Sequence[str]
    """Names of pictures whose caption looks longer than the window; an estimate."""
    shared: int | None = None
    """Of the window, the tokens that every text encoder reads; None where it is all of them."""
    partly: int = 0
    """Number of pictures whose caption looks longer than that, but not than the window; an estimate."""


def bucket_table(examples: Iterable[Example], data: DataOptions) -> list[Bucket]:
    """The buckets that the first role fills, the fullest first."""
    from ..data.buckets import kept, scale_to, size_for

    members: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for example in examples:
        target = size_for(example.size, data)
        members.setdefault(target, []).append(
            (scale_to(example.size, target), max(0.0, 1 - kept(example.size, target)))
        )
    table = [
        Bucket(
            size,
            len(covers),
            sum(lost for _, lost in covers) / len(covers),
            max(lost for _, lost in covers),
            sum(scale > 1 for scale, _ in covers),
        )
        for size, covers in members.items()
    ]
    return sorted(table, key=lambda bucket: (-bucket.pictures, bucket.size))


def token_estimate(caption: str) -> int:
    """About how many tokens a caption has, without a tokeniser. Never exact: long words count by their letters."""
    return sum(-(-len(piece) // LETTERS_A_TOKEN) for piece in WORDS.findall(caption))


def caption_facts(examples: Iterable[Example], window: int, shared: int | None = None) -> Captions:
    """Counts over every role's pictures.

    Args:
        examples: the pictures.
        window: tokens that fit, start and end marks aside.
        shared: of these, the tokens that every text encoder reads; None where it is all of them.
    """
    examples = list(examples)
    longest = [max(map(token_estimate, example.captions), default=0) for example in examples]
    return Captions(
        sources=dict(Counter(example.caption_from for example in examples).most_common()),
        unique=len({caption for example in examples for caption in example.captions}),
        window=window,
        long=tuple(e.name for e, length in zip(examples, longest, strict=True) if length > window),
        shared=shared,
        partly=sum(shared < length <= window for length in longest) if shared is not None else 0,
    )
