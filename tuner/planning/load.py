"""What of a recipe its memory depends on, gathered from its sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .memory import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..backbones.activations import Beside
    from ..backbones.base import Layout
    from ..recipe import Recipe
    from .pictures import Bucket


def load_of(
    recipe: Recipe, layout: Layout, buckets: Sequence[Bucket], roles: int, trainable: int, generates: bool
) -> Load:
    """Of a recipe what `memory` counts."""
    state, kept = training_bytes(recipe, layout)
    side = recipe.data.resolution
    sample = recipe.sample.size or side
    return Load(
        layout=layout,
        text_components=tuple(recipe.backbone.text_components),
        examples=recipe.train.batch * roles,
        area=max([bucket.size[0] * bucket.size[1] for bucket in buckets], default=side * side),
        sample_area=sample * sample if recipe.sample.every is not None and recipe.sample.prompts else 0,
        trainable=trainable,
        state=state,
        layers=trained_layers(recipe, layout),
        ema=recipe.train.ema is not None,
        checkpointing=recipe.train.gradient_checkpointing,
        trained_text=trained_text(recipe, layout),
        teacher=recipe.task.needs_teacher(recipe.sources),
        cached=recipe.data.cache == "disk",
        generates=generates,
        held=held_of(recipe, layout),
        beside={itemsize: kept_beside(recipe, layout, itemsize) for itemsize in (2, 4)},
        kept=kept,
    )


def trained_layers(recipe: Recipe, layout: Layout) -> frozenset[str] | None:
    """Linear layers of the denoiser that any adapter trains; None where one trains all its weights."""
    each = [adapter.layers(recipe.backbone, layout) for adapter in recipe.adapters]
    whole = any(names is None for names in each)
    return None if whole else frozenset(name for names in each for name in names or ())


def kept_beside(recipe: Recipe, layout: Layout, itemsize: int) -> Beside:
    """`Adapter.kept_beside` of all adapters."""
    return {
        name: both
        for adapter in recipe.adapters
        for name, both in adapter.kept_beside(recipe.backbone, layout, itemsize).items()
    }


def trained_text(recipe: Recipe, layout: Layout) -> tuple[str, ...]:
    """Text encoders in which an adapter trains something."""
    counts = [count for adapter in recipe.adapters for count in adapter.count(recipe.backbone, layout)]
    parts = {count.part.partition(" ")[0] for count in counts if count.modules}
    return tuple(name for name in recipe.backbone.text_components if name in parts)


def held_of(recipe: Recipe, layout: Layout) -> dict[str, int]:
    """`Adapter.held_bytes` of all adapters."""
    return {name: size for a in recipe.adapters for name, size in a.held_bytes(recipe.backbone, layout).items()}


def training_bytes(recipe: Recipe, layout: Layout) -> tuple[int, int]:
    """Bytes that training adds to the base in memory, and the number of parameters that train in place."""
    state, kept = 0.0, 0
    for adapter in recipe.adapters:
        held = adapter.held_bytes(recipe.backbone, layout)
        trained = sum(count.parameters for count in adapter.count(recipe.backbone, layout))
        size = max(held.values(), default=4)
        gradient = 0 if recipe.train.optimizer_in_backward else size  # each leaves as soon as it was used
        state += trained * ((0 if held else 4) + gradient + recipe.train.optimizer.bytes_a_parameter)
        kept += trained if held else 0
    return int(state), kept


def resume_bytes(recipe: Recipe, layout: Layout) -> int:
    """Bytes of what the optimizer remembers and of the average, in memory and in a resume state."""
    trained = sum(c.parameters for adapter in recipe.adapters for c in adapter.count(recipe.backbone, layout))
    return int(trained * (recipe.train.optimizer.bytes_a_parameter + (4 if recipe.train.ema else 0)))


def saved_parameters(recipe: Recipe, layout: Layout) -> int:
    """Numbers in the files of a save: those of the adapters, or of the whole components that train in place."""
    saved = 0
    for adapter in recipe.adapters:
        held = adapter.held_bytes(recipe.backbone, layout)
        trained = sum(count.parameters for count in adapter.count(recipe.backbone, layout))
        saved += sum(layout.parameters[name] for name in held) if held else trained
    return saved
