"""A Recipe as a file with every default written out, and the same with nothing private in it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from .parts import NO_EFFECT
from .recipe import Recipe
from .redact import redact
from .yaml_write import to_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence


def resolved_tree(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe, but for those that have no effect in it; validates to an equal Recipe."""
    tree = recipe.model_dump(mode="json")
    while True:
        try:
            Recipe.model_validate(tree)
        except ValidationError as error:
            found = error.errors(include_url=False)
            if any(e["type"] != NO_EFFECT for e in found):
                raise
            for e in found:
                _drop(tree, e["loc"])
        else:
            return tree


def resolved_yaml(recipe: Recipe) -> str:
    """`resolved_tree` as the text of a recipe file."""
    return to_yaml(resolved_tree(recipe))


def scrub(recipe: Recipe) -> dict[str, Any]:
    """`resolved_tree` for files that leave this machine: of a path its last component, no tokens."""
    return _scrubbed(resolved_tree(recipe), "")


def scrubbed_yaml(recipe: Recipe) -> str:
    """`scrub` as text."""
    return to_yaml(scrub(recipe))


def _drop(tree: Any, loc: Sequence[str | int]) -> None:
    *path, last = loc
    for key in path:
        tree = tree[key]
    del tree[last]


ROOTED = re.compile(r"[A-Za-z]:[\\/]|[\\/~]|\.{1,2}[\\/]")
"""How a text begins that is a path and nothing else."""

PLACES = ("model", "dataset")
"""Keys that hold a path or a Hub id; there a name on the Hub is kept whole."""


def _scrubbed(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _scrubbed(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed(inner, key) for inner in value]
    if not isinstance(value, str):
        return value
    private = (
        key in ("path", "init_from")
        or ROOTED.match(value)
        or (key in PLACES and (value.count("/") > 1 or os.path.exists(value)))
    )
    return redact(_last(value) if private else value)


def _last(path: str) -> str:
    parts = [part for part in re.split(r"[\\/]+", path) if part not in ("", ".", "..", "~") and not part.endswith(":")]
    return parts[-1] if parts else "."
