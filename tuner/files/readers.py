"""How many layers of a LoRA each tool takes: what it passes over without a word is what users miss.

What diffusers takes is read in its 0.42.1 (loaders/lora_pipeline.py, lora_conversion_utils.py); of the others the table
`formats.readers` tells, which is held against each tool's own list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..formats.readers import READERS, looked_up
from ..formats.spellings import without_ending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..formats.readers import Reader
    from .keys import Layer, Sorted

    Takes = Callable[[Layer, Sorted], str]
    """Gives why a tool does not take a layer; empty where it does."""

LYCORIS = ("loha", "lokr")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tool does with a file."""

    tool: str
    layers: int
    """How many it takes."""
    of: int
    note: str = ""
    """Why it takes fewer than all."""


def readings(found: Sorted) -> list[Reading]:
    """What each tool does with the layers that the family's models have."""
    known = [layer for layer in found.layers if layer.layers and whole(layer)]
    others = [Reading(reader.tool, *counted(known, partial(_other, reader), found)) for reader in READERS]
    return [Reading("diffusers", *counted(known, _diffusers, found)), *others]


def counted(layers: Sequence[Layer], takes: Takes, found: Sorted) -> tuple[int, int, str]:
    """How many layers a tool takes, of how many, and the most frequent reason against the others."""
    reasons: dict[str, int] = {}
    for layer in layers:
        reason = takes(layer, found)
        reasons[reason] = reasons.get(reason, 0) + 1
    good = reasons.pop("", 0)
    return good, len(layers), max(reasons, key=lambda text: reasons[text], default="")


def whole(layer: Layer) -> bool:
    """Whether a layer has what an update needs."""
    return {"down", "up"} <= layer.roles.keys() or any(role.startswith(LYCORIS) for role in layer.roles)


def _kohya_everywhere(found: Sorted) -> bool:
    return not found.strange and all(layer.spelled == {"kohya"} for layer in found.layers)


def _diffusers(layer: Layer, found: Sorted) -> str:
    if any(role.startswith(LYCORIS) for role in layer.roles):
        return "diffusers has no LoHa or LoKr"
    if layer.component == "text_encoder_3":
        return "it has no place for a LoRA on T5"
    if layer.spelled == {"kohya"}:
        if found.family != "sd15":
            return "it passes over kohya's keys of this family"
        return "" if _kohya_everywhere(found) else "it takes kohya's keys only where the file has no others"
    return "" if layer.spelled == {"diffusers"} else f"it does not know the keys of {min(layer.spelled)}"


def _other(reader: Reader, layer: Layer, found: Sorted) -> str:
    if found.family not in reader.names:
        return "it has no LoRAs for this base"
    pattern, why = reader.stops.get(found.family, (None, ""))
    keys = [key for own in found.layers for role in own.roles.values() for key in role]
    if pattern and any(re.match(pattern, key) for key in keys):
        return f"it refuses the file, since {why}"
    for role, own in layer.roles.items():
        stem = without_ending(own[0])
        if not looked_up(reader, found.family, stem):
            return f"it does not look up names such as {stem[:100]}"
        if role in ("down", "up") and own[0][len(stem) :] not in reader.endings:
            return f"it does not look up endings such as {own[0][len(stem) :]}"
    return ""
