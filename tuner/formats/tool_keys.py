"""Which keys a LoRA is written with for a tool that people name: the ones that it reads whole of this family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from .families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .convert import Style
    from .kinds import Found

TOOLS: Mapping[str, str] = {"comfyui": "ComfyUI", "a1111": "AUTOMATIC1111 and Forge"}
"""By the word after `--to`, what people call the tool."""


def keys_for(tool: str, file: Path, found: Found) -> Style:
    """The keys that a tool reads all of a LoRA with.

    Raises: UsageError where it has no LoRA for the family, or reads this file as it is.
    """
    if FAMILIES[found.family].kohya_in_diffusers:
        keys: Style = "kohya"
    elif tool == "a1111":
        raise UsageError(
            f"{file} is for {FAMILIES[found.family].label}, whose LoRAs AUTOMATIC1111 does not apply",
            "use it in ComfyUI or diffusers; `tuner inspect` says which tool reads it",
        )
    else:
        keys = "kohya" if found.spelling == "kohya" else "diffusers"
    if found.spelling == keys:
        raise UsageError(f"{file}: {TOOLS[tool]} reads it as it is, with the keys of {keys}", "nothing is to be done")
    return keys
