"""Which rank and scale each layer of a LoRA has: the adapter's own, those of convolutions, or those of a part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from .parts import Part
from .wording import quoted, suggest

Place = tuple[str, str]
"""A component and the full name of a layer in it."""


class LayerRank(Part):
    """A rank for the layers whose name has a part."""

    layers: str = Field(min_length=1, max_length=200)
    """Part of a layer's name, whole between dots: down_blocks.0, mid_block, attn2, attn2.to_k, text_encoder ..."""
    rank: int = Field(ge=1, le=1024)
    """Rank of the update of these layers."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """Scale numerator of these layers; null gives them the scale of the others, or with rslora the same alpha."""

    def names(self, place: Place) -> bool:
        """Whether a layer is one of these."""
        return f".{self.layers}." in f".{'.'.join(place)}."


class Size(NamedTuple):
    """Of one layer's update, scale * B A."""

    rank: int
    scale: float


class Sizes(NamedTuple):
    """The rule by which layers get their size."""

    rank: int
    alpha: float
    rslora: bool = False
    """Whether the scale is alpha / sqrt(rank) (Kalajdzievski 2023) rather than alpha / rank."""
    conv_rank: int | None = None
    """Of convolutions with a kernel of more than one cell."""
    conv_alpha: float | None = None
    ranks: Sequence[LayerRank] = ()
    """The first whose part a layer's name has counts."""

    def of(self, place: Place, *, wide: bool) -> Size:
        """Rank and scale of a layer.

        Args:
            place: the layer.
            wide: whether it is a convolution with a kernel of more than one cell.
        """
        own = next((entry for entry in self.ranks if entry.names(place)), None)
        if own is not None:
            rank, alpha = own.rank, own.alpha
        elif wide:
            rank, alpha = self.conv_rank or self.rank, self.conv_alpha
        else:
            rank, alpha = self.rank, self.alpha
        if alpha is None:
            alpha = self.alpha if self.rslora else self.alpha / self.rank * rank
        return Size(rank, alpha / math.sqrt(rank) if self.rslora else alpha / rank)

    def idle(self, places: Iterable[Place]) -> list[str]:
        """Entries of `ranks` that no layer takes its rank from, a line each with what may have been meant."""
        everything = left = list(places)
        lines = []
        for number, entry in enumerate(self.ranks):
            taken = [place for place in left if entry.names(place)]
            left = [place for place in left if not entry.names(place)]
            if taken:
                continue
            key = f"adapters.lora.ranks.{number}: {quoted(entry.layers)}"
            if any(map(entry.names, everything)):
                lines.append(f"{key} has no effect: an entry before it has taken its layers")
            else:
                lines.append(
                    f"{key} is no part of the name of a layer that trains{suggest(entry.layers, _parts(everything))}"
                )
        return lines


def _parts(places: Iterable[Place]) -> list[str]:
    """What entries may name: components, and stretches of layers' names of up to three parts."""
    found: dict[str, None] = {}
    for component, layer in places:
        parts = layer.split(".")
        found[component] = None
        for length in (1, 2, 3):
            found |= dict.fromkeys(".".join(parts[n : n + length]) for n in range(len(parts) - length + 1))
    return [part for part in found if not part.replace(".", "").isdigit()]


def only_one(sizes: Mapping[Place, Size]) -> Size | None:
    """The size of every layer, where they have one; None where they differ."""
    kinds = set(sizes.values())
    return kinds.pop() if len(kinds) == 1 else None
