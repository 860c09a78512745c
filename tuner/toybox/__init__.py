"""The small world, the models that were trained on it, and drawn pictures: nothing needs a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .bundled import BUNDLES, PLACE

MODELS = Path(__file__).parent / "models"
PICTURES = PLACE


def folder(backbone: str) -> Path:
    """The toybox model of a backbone, in diffusers' layout."""
    return MODELS / backbone


def judge(name: str) -> Path:
    """A model that sees the toybox's pictures as a person would, in transformers' layout.

    `clip` reads, too, and compares a picture with a caption; `dino` tells particular subjects apart.
    """
    return MODELS / name


def configs(backbone: str) -> dict[str, dict[str, Any]]:
    """The configuration of each component of a toybox model by its name; imports no torch."""
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in (folder(backbone)).glob("*/*config.json")
        if path.name in {"config.json", "scheduler_config.json"}
    }


def pictures() -> Path:
    """A folder of drawn photos of one subject."""
    return BUNDLES["instance"].folder
