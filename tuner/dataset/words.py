"""How often which word stands in the captions of a dataset."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORD = re.compile(r"[^\W_]+(?:['\u2019_-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    """In lower case."""
    pictures: int
    """Captions that hold it."""
    times: int
    """How often it stands in all of them."""


def words(captions: Iterable[str]) -> list[Word]:
    """Every word, the most frequent first; of equals in the order of the alphabet."""
    times: Counter[str] = Counter()
    pictures: Counter[str] = Counter()
    for caption in captions:
        found = _WORD.findall(caption.lower())
        times.update(found)
        pictures.update(set(found))
    return sorted(
        (Word(text, pictures[text], number) for text, number in times.items()),
        key=lambda word: (-word.pictures, -word.times, word.text),
    )
