"""What the files of a run say of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import samples
from .saving import today

if TYPE_CHECKING:
    from collections.abc import Callable

    from .data.order import Order
    from .formats.about import About
    from .preparing import Ready
    from .recipe import Recipe
    from .rundir import RunDir
    from .selection import Selection


def account(
    recipe: Recipe,
    ready: Ready,
    place: RunDir,
    order: Order,
    selection: Selection,
    *,
    steps: int,
    began: float,
) -> Callable[[int], About]:
    """What the files of a step say, given the step.

    Args:
        ready: what the run was prepared with.
        steps: of the whole run.
        began: when this process began it, by the monotonic clock.
    """
    from .formats.about import about_run, count_tags
    from .resolved import scrubbed_yaml

    first = next(iter(ready.prepared.examples))
    sizes = sorted(ready.prepared.sizes[first].values())
    found = ready.prepared.examples
    others = [
        role.name for role in ready.prepared.roles if role.name in found and role.name != first and not role.beside
    ]
    recipe_text = scrubbed_yaml(recipe)

    def about(step: int) -> About:
        return about_run(
            place.path.name,
            recipe,
            facts={
                "step": step,
                "max_steps": steps,
                "epoch": round(step / order.steps_per_epoch, 3),
                "images": len(ready.prepared.examples[first]),
                "prior_images": sum(len(ready.prepared.examples[role]) for role in others),
                "buckets": {f"{w}x{h}": sizes.count((w, h)) for w, h in sorted(set(sizes))},
                "tags": {
                    role: count_tags(c for e in m for c in e.captions) for role, m in ready.prepared.examples.items()
                },
                "precision": ready.where.precision,
                "validation_loss": selection.loss(step),
                "best": str(best) if (best := selection.best(step)) else None,
                "seconds": round(time.monotonic() - began, 1),
            },
            recipe_text=recipe_text,
            base_identity=ready.base_identity,
            prediction=ready.student.objective.prediction,
            weights="ema" if recipe.train.ema else recipe.train.optimizer.files_hold,
            made=today(),
            preview=samples.latest(place.samples, recipe.sample.prompts),
        )

    return about
