"""Which layers of a LoRA each tool takes, as read in its source: what it passes over without a word is what users miss.

diffusers 0.42 (loaders/lora_pipeline.py, lora_conversion_utils.py); AUTOMATIC1111 (extensions-builtin/Lora); ComfyUI
(comfy/lora.py); InvokeAI (patches/lora_conversions). Forge takes what AUTOMATIC1111 takes of SD1.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .keys import Layer, Sorted

    Takes = Callable[[Layer, Sorted], str]
    """Gives why a tool does not take a layer; empty where it does."""

LYCORIS = ("loha", "lokr")
READS, KNOWS_NOT = "it reads", "it does not know"
"""How a reason begins that is about whose keys the file has."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tool does with a file."""

    tool: str
    layers: int
    """How many it takes."""
    of: int
    note: str = ""
    """Why it takes fewer than all."""

    @property
    def by_keys(self) -> bool:
        """Whether the reason is that the file is written for other tools."""
        return self.note.startswith((READS, KNOWS_NOT))


def readings(found: Sorted) -> list[Reading]:
    """What each tool takes of the layers that the family's models have."""
    known = [layer for layer in found.layers if layer.layers and whole(layer)]
    return [Reading(tool, *counted(known, takes, found)) for tool, takes in READERS[found.family].items()]


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
    return "" if layer.spelled == {"diffusers"} else f"{KNOWS_NOT} the keys of {min(layer.spelled)}"


def _kohya_only(layer: Layer, _found: Sorted) -> str:
    return "" if layer.spelled == {"kohya"} else f"{READS} kohya's keys"


def _invoke(layer: Layer, _found: Sorted) -> str:
    if reason := _kohya_only(layer, _found):
        return reason
    other = any(key.startswith("lora_te1_") for keys in layer.roles.values() for key in keys)
    return "its text encoder's keys begin with lora_te_, not lora_te1_" if other else ""


def _comfy_sd15(layer: Layer, _found: Sorted) -> str:
    if layer.spelled <= {"kohya", "comfyui"}:
        return ""
    if layer.spelled != {"diffusers"}:
        return f"{KNOWS_NOT} the keys of {min(layer.spelled)}"
    keys = [key for keys in layer.roles.values() for key in keys]
    if layer.component == "unet" and ".to_" in layer.name and not any(".processor." in key for key in keys):
        return f"{KNOWS_NOT} diffusers' names of attention layers"
    return ""


def _comfy_sd35(layer: Layer, _found: Sorted) -> str:
    known = {"kohya", "diffusers", "onetrainer", "comfyui", "lycoris"}
    return "" if layer.spelled <= known else f"{KNOWS_NOT} the keys of {min(layer.spelled)}"


def _no_sd3(_layer: Layer, _found: Sorted) -> str:
    return "it has no LoRA for this family"


READERS: dict[str, dict[str, Takes]] = {
    "sd15": {
        "diffusers": _diffusers,
        "AUTOMATIC1111": _kohya_only,
        "Forge": _kohya_only,
        "ComfyUI": _comfy_sd15,
        "InvokeAI": _invoke,
    },
    "sd35": {"diffusers": _diffusers, "ComfyUI": _comfy_sd35, "AUTOMATIC1111": _no_sd3, "InvokeAI": _no_sd3},
}
"""By family and tool."""
