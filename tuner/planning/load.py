"""What of a recipe its memory depends on, gathered from its sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .memory import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..backbones.base import Layout
    from ..recipe import Recipe
    from .pictures import Bucket


def load_of(
    recipe: Recipe, layout: Layout, buckets: Sequence[Bucket], roles: int, trainable: int, generates: bool
) -> Load:
    """Of a recipe what `memory` counts."""
    side = recipe.data.resolution
    sample = recipe.sample.size or side
    return Load(
        layout=layout,
        text_components=tuple(recipe.backbone.text_components),
        examples=recipe.train.batch * roles,
        area=max([bucket.size[0] * bucket.size[1] for bucket in buckets], default=side * side),
        sample_area=sample * sample if recipe.sample.every is not None and recipe.sample.prompts else 0,
        trainable=trainable,
        layers=trained_layers(recipe, layout),
        ema=recipe.train.ema is not None,
        checkpointing=recipe.train.gradient_checkpointing,
        trained_text=trained_text(recipe, layout),
        teacher=recipe.task.needs_teacher(recipe.sources),
        cached=recipe.data.cache == "disk",
        generates=generates,
    )


def trained_layers(recipe: Recipe, layout: Layout) -> frozenset[str] | None:
    """Linear layers of the denoiser that any adapter trains; None where one trains all its weights."""
    each = [adapter.layers(recipe.backbone, layout) for adapter in recipe.adapters]
    whole = any(names is None for names in each)
    return None if whole else frozenset(name for names in each for name in names or ())


def trained_text(recipe: Recipe, layout: Layout) -> tuple[str, ...]:
    """Text encoders with a layer that an adapter can train, where one does."""
    if not any(adapter.trains_text() for adapter in recipe.adapters):
        return ()
    backbone = recipe.backbone
    return tuple(
        name
        for name in backbone.text_components
        if name in layout.linears and backbone.matching_text(layout.linears[name])
    )
