"""Whether captions say the words that a run teaches: of pictures that never do, a word learns nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DataError
from .held_out import ROLE as HELD_OUT
from .listing import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .scan import Example


def require(words: Iterable[str], examples: Mapping[str, Sequence[Example]]) -> list[str]:
    """Notes on captions that do not say a word.

    Args:
        words: `Adapter.words` of each adapter.
        examples: by role; held-out ones teach nothing and do not count.

    Raises: DataError naming a word that no caption says.
    """
    notes = []
    for word in words:
        told = {
            role: sum(any(word in caption for caption in example.captions) for example in members)
            for role, members in examples.items()
            if role != HELD_OUT
        }
        if not any(told.values()):
            heard = next((c for role in told for example in examples[role] for c in example.captions), "")
            raise DataError(
                f"no caption says {word}, so nothing would be learned (the first says {heard!r})",
                f"write {word} into data's caption (or into each picture's .txt), or set data.trigger: {word}",
            )
        notes += [
            f"data.{role}: {count(len(examples[role]) - number, 'picture')} of {len(examples[role])} have no caption "
            f"with {word} and do not teach it"
            for role, number in told.items()
            if 0 < number < len(examples[role])
        ]
    return notes
