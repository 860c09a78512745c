"""Which picture sizes a base can place: a table of positions ends somewhere, and pretraining ended before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..backbones.base import Layout
    from ..recipe import Recipe

Size = tuple[int, int]
"""Width and height in pixels."""


def largest_sizes(resolution: int, buckets: Mapping[Size, int], sample: int | None) -> dict[str, Size]:
    """The longest size that each key asks for.

    Args:
        resolution: of the data, at which class pictures are drawn, too.
        buckets: those in use, and their number of pictures.
        sample: side of the samples; None draws none.
    """
    found = {"data.resolution": max([(resolution, resolution), *buckets], key=lambda size: (max(size), size))}
    return found | ({"sample.size": (sample, sample)} if sample else {})


def longest_side(recipe: Recipe, layout: Layout) -> int | None:
    """The longest side that has positions, in pixels, in the base or by an adapter; None where there is no end."""
    if layout.max_side_px is None:
        return None
    return max(layout.max_side_px, *(adapter.longest_side() or 0 for adapter in recipe.adapters))


def idle_positions(recipe: Recipe, layout: Layout, buckets: Iterable[Size]) -> Sequence[str]:
    """Settings of the backbone that do nothing for the pictures of these buckets, a line each."""
    most = longest_side(recipe, layout)
    return () if most is None else recipe.backbone.idle_in(most, buckets)


def beyond_positions(recipe: Recipe, layout: Layout, sizes: Mapping[str, Size]) -> list[str]:
    """Why pictures of these sizes cannot be placed, one line a key.

    The paper's table (Esser et al. 2024, sec. 5.3.2) can be extended, but a model has to be trained whole to read the
    new entries, and a LoRA file has no place for them.
    """
    most = longest_side(recipe, layout)
    if most is None:
        return []
    whole = any(adapter.saves_whole_models for adapter in recipe.adapters)
    lines = []
    for key, (width, height) in sizes.items():
        longest = max(width, height)
        advice = (
            f"set max_side_px: {longest} of the adapter to extend them, or lower {key}"
            if whole
            else f"to extend them takes training of the whole model, so an adapter cannot; lower {key}"
        )
        if longest > most:
            text = f"pictures of {width} x {height} px, but the positions of this model end at {most} px a side"
            lines.append(f"{key}: {text}; {advice}")
    return lines


def beyond_pretraining(layout: Layout, sizes: Mapping[str, Size]) -> list[str]:
    """What to know of pictures larger than any that the base was pretrained on, one line a key."""
    usual = layout.pretrained_px
    return [
        f"{key}: {width} x {height} px is more than this base was pretrained on ({usual} x {usual} px in area)"
        for key, (width, height) in sizes.items()
        if usual is not None and width * height > usual**2
    ]
