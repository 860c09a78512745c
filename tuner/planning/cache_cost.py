"""What each choice of `data.cache` costs: bytes on disk, and pictures encoded before and during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..backbones.base import Layout
    from ..recipe import Recipe
    from .length import Exposure, Length
    from .pictures import Bucket, Captions


@dataclass(frozen=True, slots=True)
class CacheCost:
    """One choice of data.cache."""

    choice: str
    bytes: int
    """On disk, at most."""
    encoded_before: int
    """Pictures (each size and mirror image by itself) encoded before the first step, at most."""
    encoded_a_step: int
    """Pictures encoded in every step."""
    texts_a_step: int
    """Captions encoded in every step."""
    possible: bool = True
    """Whether the recipe could take this choice as it is."""


def cache_costs(
    recipe: Recipe,
    layout: Layout,
    buckets: Sequence[Bucket],
    seen: Sequence[Exposure],
    captions: Captions,
    total: Length,
    *,
    held_out: int = 0,
) -> list[CacheCost]:
    """Both choices, the recipe's own first. The `held_out` pictures of the validation are cached either way."""
    data = recipe.data
    flips = 2 if data.flip else 1
    own = [exposure for exposure in seen if not exposure.mirrors]
    # A unit lives in its first role's bucket, so pictures of the other roles are encoded in each of the sizes.
    # One that is of a pair has its bucket from the other, so it is encoded in that one alone.
    paired = {role.name for role in recipe.task.roles(recipe.sources) if role.beside}
    others = sum(e.pictures * (1 if e.role in paired else max(1, len(buckets))) for e in own[1:])
    count = (own[0].pictures + others) * flips
    pixels = [bucket.size[0] * bucket.size[1] for bucket in buckets for _ in range(bucket.pictures)]
    area = sum(pixels) / len(pixels) if pixels else data.resolution**2
    each = 2 * layout.channels * area / layout.factor**2 * 4  # mean and log-variance, float32
    latents, kept = (count + held_out) * each, held_out * each

    trains_text = any(adapter.trains_text() for adapter in recipe.adapters)
    texts = 0 if trains_text else captions.unique + (1 if data.caption_dropout else 0)
    embeddings = texts * layout.tokens * text_width(recipe, layout) * 4
    visits = total.units_a_step * len(own)
    spoken = total.units_a_step * len(seen)
    costs = [
        CacheCost("disk", int(latents + embeddings), count + held_out, 0, spoken * trains_text, not fresh(recipe)),
        CacheCost("off", int(kept + embeddings), held_out, visits, spoken * trains_text),
    ]
    return costs if data.cache == "disk" else costs[::-1]


def fresh(recipe: Recipe) -> bool:
    """Whether each visit changes the picture, so that no encoding could be kept."""
    return recipe.data.crop == "random" or recipe.data.color_jitter > 0


def text_width(recipe: Recipe, layout: Layout) -> int:
    """Width D of the text that the denoiser takes; by default the input of its key and value projections of text."""
    if layout.text_width is not None:
        return layout.text_width
    for component, linears in layout.linears.items():
        if component not in recipe.backbone.text_components:
            for names in recipe.backbone.matching("context_kv", linears).values():
                for name in names:
                    return linears[name][0]
    return 0
