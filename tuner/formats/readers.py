"""Which names of LoRA layers each tool looks up, as read in its source: one table, held against true lists by tests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .spellings import without_ending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .kinds import Found

_UP_DOWN = (".lora_up.weight", ".lora_down.weight", ".alpha")
_A_B = (".lora_A.weight", ".lora_B.weight")
_FIRST = tuple(f"{stem}.{side}.weight" for stem in (".lora", "_lora", ".lora_linear_layer") for side in ("up", "down"))
_PROCESSORS = r"unet\.(?!base_model\.)(?!.*(?<!processor)\.to_)|(down|up|mid)_block.*\.processor\.to_"
"""ComfyUI looks for a UNet's attention as diffusers' first LoRAs named it, and for its other layers as today's do."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What a tool takes from a LoRA file. What it does not look up it leaves out, mostly without a word."""

    tool: str
    source: str
    """The fixture under tests/fixtures/keys with its true list, repository, commit and paths."""
    names: Mapping[str, str]
    """By backbone, a pattern of the beginning of the names that it looks up; a backbone that it has no LoRAs for is
    left out."""
    endings: tuple[str, ...]
    """Of the tensors that it reads under such a name."""
    stops: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By backbone, a pattern of a key that makes it refuse the whole file, and how."""


READERS: tuple[Reader, ...] = (
    Reader(
        "AUTOMATIC1111",
        "a1111",
        {
            "sd15": r"lora_unet_|lora_te1?_text_model_",
            "sd35": r"transformer\.transformer_blocks\.\d+\.attn\.to_(q|k|v|out\.0)$",
        },
        (*_UP_DOWN, *_A_B),
        {
            "sd15": (r"diffusion_model\.", "it takes `diffusion_model` for a layer's name"),
            "sd35": (
                r"[^.]+\.[^.]+$",
                "of SD3 it expects a name in three parts, which an `.alpha` beside a layer is not",
            ),
        },
    ),
    Reader(
        "Forge",
        "forge",
        {
            "sd15": rf"lora_unet_|lora_te1?_text_model_|lycoris_(?!text_model_)|diffusion_model\.|{_PROCESSORS}"
            r"|text_encoder\.text_model\.",
            "sd35": r"lora_unet_|lora_te[123]_|diffusion_model\."
            r"|text_encoder(_2)?\.text_model\.|text_encoder\.text_projection",
        },
        (*_UP_DOWN, *_A_B, *_FIRST),
    ),
    Reader(
        "ComfyUI",
        "comfyui",
        {
            "sd15": rf"lora_unet_|lora_te1?_text_model_|lycoris_(?!text_model_)|diffusion_model\.|{_PROCESSORS}"
            r"|text_encoder\.text_model\.|text_encoders\.clip_l\.",
            "sd35": r"transformer\.(?!base_model\.)|base_model\.model\.(?!text_model\.)|lora_transformer_|lycoris_"
            r"|lora_unet_|lora_te[123]_|diffusion_model\.|text_encoder(_2)?\.text_model\.|text_encoders\.",
        },
        (*_UP_DOWN, *_A_B, *_FIRST, ".lora_A.default.weight", ".lora_B.default.weight"),
    ),
    Reader(
        "InvokeAI",
        "invokeai",
        {"sd15": r"lora_unet_(down_blocks|up_blocks|mid_block|time_embedding|conv_)|lora_te_text_model_"},
        _UP_DOWN,
    ),
)


def looked_up(reader: Reader, family: str, layer: str) -> bool:
    """Whether the tool knows a layer of this name (a key without its ending)."""
    return family in reader.names and re.match(reader.names[family], layer) is not None


def answer(reader: Reader, found: Found, *, folded: bool = True) -> str:
    """What the tool does with a file, in a line that begins with all, PART or not.

    Args:
        folded: whether alpha stands in the tensors, the only place where tools other than diffusers look.
    """
    said = _answer(reader, found)
    return said if folded or said.startswith("not") else f"{said}, at another strength: it takes alpha for the rank"


def _answer(reader: Reader, found: Found) -> str:
    if found.family not in reader.names:
        return "not at all: it has no LoRAs for this base"
    pattern, why = reader.stops.get(found.family, (None, ""))
    keys = [
        key for layers in found.components.values() for f in layers.values() for key in (f.down, f.up, f.alpha) if key
    ]
    if pattern and any(re.match(pattern, key) for key in keys):
        return f"not: it refuses the file, since {why}{_instead(reader, found)}"
    taken: dict[str, int] = {}
    lost: dict[str, int] = {}
    for component, layers in found.components.items():
        known = [all(_read(reader, found.family, key) for key in (f.down, f.up)) for f in layers.values()]
        if any(known):
            taken[component] = sum(known)
        if not all(known):
            lost[component] = len(known) - sum(known)
    if not lost:
        return "all of it" + (", text encoder included" if any(part.startswith("text") for part in taken) else "")
    if not taken:
        return f"not these keys{_instead(reader, found)}"
    left = " and ".join(f"{lost[part]} of {len(found.components[part])} layers of the {part}" for part in lost)
    return f"PART of it: it leaves out {left}{_instead(reader, found)}"


def _read(reader: Reader, family: str, key: str) -> bool:
    layer = without_ending(key)
    return looked_up(reader, family, layer) and key[len(layer) :] in reader.endings


def _instead(reader: Reader, found: Found) -> str:
    """What to do about it, where the tool would take kohya's keys."""
    kohya = found.family in reader.names and re.match(reader.names[found.family], "lora_unet_down_blocks_0")
    if not kohya or found.spelling == "kohya":
        return ""
    if found.spelling == "diffusers" and found.family == "sd15":
        return "; take the file beside it with kohya's, or `tuner export FILE --to kohya`"
    return "; `tuner export FILE --to kohya`"
