"""What a run was started with: a resumed run must be the same run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.scan import Example
    from .recipe import Recipe

FREE = ("save", "sample", "validation", "log")
"""Sections that may change between two starts of a run: they move no weight but by the pictures they leave."""

NAMED_EXAMPLES = 2000
"""Up to this many examples are written down one by one, so that a difference can be named."""


def identity(
    recipe: Recipe, examples: Mapping[str, Sequence[Example]], base: Mapping[str, str], *, precision: str
) -> dict[str, Any]:
    """Everything that the trained weights depend on, as nested plain values.

    Args:
        base: sha256 of each component of the base model.
        precision: the one in force, so that `auto` on another machine is seen.
    """
    tree = recipe.model_dump(mode="json", exclude=set(FREE))
    train = tree["train"]
    train.pop("device")
    train["precision"] = precision
    if not recipe.length_matters:
        # A longer run is the same run going on, where no rate and no pivot depends on the length.
        for key in ("steps", "epochs"):
            train.pop(key)
    for key in ("model", "revision"):
        tree["backbone"].pop(key)  # the weights themselves are compared, not where they lie
    for adapter, own in zip(recipe.adapters, tree["adapters"], strict=True):
        own.pop("init_from", None)  # what it holds is compared, not where it lies
        if (start := adapter.initial_sha256()) is not None:
            own["init_from"] = start
    for sources in recipe.sources:
        for source in tree["data"][sources]:
            source.pop("path")
    return {"recipe": tree, "base": dict(base), "pictures": _pictures(examples)}


def _pictures(examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """By uid, since a renamed file is the same picture."""
    rows = {
        role: {e.uid: f"{_captions(e)} (weight {e.weight:g}, x{e.repeats})" for e in members}
        for role, members in examples.items()
    }
    count = sum(len(members) for members in rows.values())
    if count <= NAMED_EXAMPLES:
        return rows
    text = "\n".join(f"{role} {uid} {row}" for role, members in rows.items() for uid, row in sorted(members.items()))
    return {"count": count, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _captions(example: Example) -> str:
    if not example.caption_weights:
        return " | ".join(example.captions)
    return " | ".join(f"{w:g} {text}" for w, text in zip(example.caption_weights, example.captions, strict=True))


def environment() -> dict[str, Any]:
    """What else decides the last bits: versions, instruction set, threads. Recorded; a change is warned about."""
    import platform
    from importlib.metadata import version

    import torch

    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers", "peft", "numpy")},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
