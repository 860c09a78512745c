"""Which pictures a run is measured on and never learns from, and that the two stay apart."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..draws import Draws
from ..errors import DataError
from .listing import Refused, count, some

if TYPE_CHECKING:
    from .batches import Pictures, Recital, Texts
    from .order import Bucket
    from .scan import Example

ROLE = "validation"
"""What held-out pictures go by where others go by their role."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out pictures, and where their latents and texts come from."""

    examples: Sequence[Example]
    sizes: Mapping[str, Bucket]
    """Bucket of each example, by uid."""
    pictures: Pictures
    texts: Texts
    recital: Recital


def draw(examples: MutableMapping[str, list[Example]], role: str, share: float, seed: int) -> str:
    """Move a share of a role's pictures, at least one, into `examples[ROLE]`; gives a note that names them.

    A picture's rank is a function of seed and content, so that a larger share holds out the same pictures and more,
    and exact copies go together.

    Raises: DataError where nothing would be left to learn from.
    """
    draws, label = Draws(seed), f"data.{role}"
    digests = sorted({e.digest for e in examples[role]}, key=lambda digest: draws.key("hold_out", digest))
    number = max(1, round(share * len(digests)))
    if number >= len(digests):
        raise DataError(
            f"validation.hold_out: {share:g} of {label} ({count(len(digests), 'different picture')}) leaves none to "
            "learn from",
            "lower it, add pictures, or leave the validation out",
        )
    chosen = set(digests[:number])
    held = [replace(e, role=ROLE) for e in examples[role] if e.digest in chosen]
    examples[role] = [e for e in examples[role] if e.digest not in chosen]
    examples[ROLE] = held
    total = len(held) + len(examples[role])
    return f"validation.hold_out: {len(held)} of {total} pictures of {label} held out: {some(e.name for e in held)}"


def refuse_trained(examples: MutableMapping[str, list[Example]]) -> list[Refused]:
    """Take out of `examples[ROLE]` every picture that a role has too, by content; gives each with its twin.

    Raises: DataError where none is left.
    """
    if ROLE not in examples:
        return []
    trained = {e.digest: e for role, members in examples.items() if role != ROLE for e in members}
    refused = [
        Refused(e.name, f"it is {_place(trained[e.digest])} too, so it is not held out and measures nothing")
        for e in examples[ROLE]
        if e.digest in trained
    ]
    examples[ROLE] = [e for e in examples[ROLE] if e.digest not in trained]
    if not examples[ROLE]:
        lines = "\n".join(f"{r.name}: {r.reason}" for r in refused)
        raise DataError(f"validation.images: none is held out\n{lines}", "put pictures there that are not trained on")
    return refused


def _place(example: Example) -> str:
    return f"{example.name} of data.{example.role}"
