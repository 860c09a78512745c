"""Which keys a LoRA is written with for a tool that people name: the ones that it reads whole of this family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from .families import FAMILIES
from .readers import READERS, answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .convert import Style
    from .kinds import Found

TOOLS: Mapping[str, str] = {"comfyui": "ComfyUI", "a1111": "AUTOMATIC1111"}
"""By the word after `--to`, the tool."""


def keys_for(word: str, file: Path, found: Found) -> Style:
    """The keys that a tool reads all of a LoRA with.

    Raises: UsageError where it has no LoRA for the family, or reads this file as it is.
    """
    tool = next(reader for reader in READERS if reader.tool == TOOLS[word])
    if answer(tool, found).startswith("all of it"):
        raise UsageError(f"{file}: {tool.tool} reads all of it as it is", "nothing is to be done")
    if FAMILIES[found.family].kohya_in_diffusers:
        return "kohya"
    if word == "a1111":
        raise UsageError(
            f"{file} is for {FAMILIES[found.family].label}, of whose LoRAs AUTOMATIC1111 reads a part at most",
            "use it in ComfyUI or diffusers; `tuner inspect` says which tool reads it",
        )
    return "diffusers"
