"""Other tools' names of the same LoRA tensors, each brought to diffusers' or kohya's: one table; imports no torch.

Read in the sources of OneTrainer (modules/util/convert_lora_util.py), LyCORIS (lycoris/wrapper.py), ComfyUI
(comfy/lora.py) and peft (save_and_load.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError
from .kohya import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

JOINT_WORDS = (
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context", "norm1_context", "norm_out", "pos_embed"),
    *("time_text_embed", "timestep_embedder", "text_embedder", "context_embedder"),
)
"""Parts of SD3's layer names that hold a `_` of their own."""

_WORD = re.compile(f"({'|'.join((*JOINT_WORDS, *WORDS))}|[^_]+)(?:_|$)")
_UNET = r"(?:down_blocks|up_blocks|mid_block|time_embedding|conv_in|conv_out|conv_norm_out)\b"
_JOINT = r"(?:transformer_blocks|context_embedder|time_text_embed|norm_out|proj_out|pos_embed)\b"
_MMDIT = r"(?:joint_blocks|context_embedder|x_embedder|t_embedder|y_embedder|final_layer)\b"
_LDM = r"(?:input_blocks|middle_block|output_blocks|time_embed|out)\b"


def dotted(rest: str) -> str:
    """`transformer_blocks_0_attn_add_q_proj` -> `transformer_blocks.0.attn.add_q_proj`."""
    return ".".join(match[1] for match in _WORD.finditer(rest))


def flat(layer: str) -> str:
    """A layer's name with `_` for its dots."""
    return layer.replace(".", "_")


_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTER = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def unet_layer(layer: str) -> str:
    """A layer of SD1.5's UNet in diffusers, by its original name; the inverse of `compvis.unet_key`.

    The original counts blocks through all levels, three to each. What is no such name comes back as it is.
    """
    if layer in _OUTER:
        return _OUTER[layer]
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", layer)
    if match:
        down = match[1] == "input"
        level, index = divmod(int(match[2]) - down, 3)
        side = "down" if down else "up"
        if match[4] in ("op", "conv"):
            return f"{side}_blocks.{level}.{side}samplers.0.conv"
        return f"{side}_blocks.{level}.{_part(match[3], str(index), match[4])}"
    match = re.fullmatch(r"middle_block\.([012])\.(.+)", layer)
    return f"mid_block.{_part(str(int(match[1]) % 2), str(int(match[1]) // 2), match[2])}" if match else layer


def _part(place: str, index: str, inner: str) -> str:
    return f"attentions.{index}.{inner}" if place == "1" else f"resnets.{index}.{_RESNET.get(inner, inner)}"


@dataclass(frozen=True, slots=True)
class Spelling:
    """How one tool names tensors."""

    name: str
    """What `inspect` calls it."""
    said: str
    """What people call such a file's keys."""
    sign: str
    """Pattern of the beginning of a key that no other spelling has."""
    rules: tuple[tuple[str, Callable[[re.Match[str]], str]], ...]
    """The first that fits; a key that none fits stays as it is, and is refused then."""


def _clip(match: re.Match[str]) -> str:
    return f"text_encoder{'_2' if match[1] == '2' else ''}.{dotted(match[2])}"


def _original(prefix: str) -> tuple[tuple[str, Callable[[re.Match[str]], str]], ...]:
    """Rules of a denoiser's layers under the names of the code that the models came with."""
    return (
        (rf"{prefix}({_MMDIT}.*)", lambda match: f"lora_unet_{flat(match[1])}"),
        (rf"{prefix}({_LDM}.*)", lambda match: f"lora_unet_{flat(unet_layer(match[1]))}"),
    )


SPELLINGS: tuple[Spelling, ...] = (
    Spelling(
        "onetrainer",
        "OneTrainer's own keys",
        r"lora_transformer_",
        (
            (r"lora_transformer_(.+)", lambda match: f"transformer.{dotted(match[1])}"),
            (r"lora_te([12])_(.+)", _clip),
        ),
    ),
    Spelling(
        "lycoris",
        "LyCORIS' own keys",
        r"lycoris_",
        (
            (r"lycoris_((?:down_blocks|up_blocks|mid_block|time_embedding|conv_).+)", lambda m: f"lora_unet_{m[1]}"),
            (r"lycoris_(text_model_.+)", lambda match: f"lora_te_{match[1]}"),
            (r"lycoris_(.+)", lambda match: f"transformer.{dotted(match[1])}"),
        ),
    ),
    Spelling(
        "peft",
        "peft's own keys",
        r"((unet|transformer|text_encoder|text_encoder_2)\.)?base_model\.model\.",
        (
            (r"(unet|transformer|text_encoder|text_encoder_2)\.base_model\.model\.(.+)", lambda m: f"{m[1]}.{m[2]}"),
            (rf"base_model\.model\.({_UNET}.*)", lambda match: f"unet.{match[1]}"),
            (rf"base_model\.model\.({_JOINT}.*)", lambda match: f"transformer.{match[1]}"),
            (r"base_model\.model\.(text_model\..+)", lambda match: f"text_encoder.{match[1]}"),
            (r"base_model\.model\.(encoder\.layers\..+)", lambda match: f"text_encoder.text_model.{match[1]}"),
        ),
    ),
    Spelling(
        "comfyui",
        "ComfyUI's own keys",
        r"(diffusion_model|text_encoders)\.",
        (
            *_original(r"diffusion_model\."),
            (r"text_encoders\.clip_l\.transformer\.(.+)", lambda match: f"lora_te1_{flat(match[1])}"),
            (r"text_encoders\.clip_g\.transformer\.(.+)", lambda match: f"lora_te2_{flat(match[1])}"),
        ),
    ),
    Spelling(
        "original",
        "the original code's keys",
        r"(joint_blocks|input_blocks|output_blocks|middle_block)\.",
        _original(""),
    ),
    Spelling(
        "attention processors",
        "the keys of diffusers' first LoRAs",
        rf"{_UNET}\..*\.processor\.to_\w+_lora\.",
        ((rf"({_UNET}.*)", lambda match: f"unet.{match[1]}"),),
    ),
)
"""Those that are read beside diffusers' and kohya's own."""

_ENDINGS = re.compile(
    r"(?:\.lora_(?P<new>A|B)(?:\.default)?\.weight|\.lora_(?P<kohya>down|up)\.weight"
    r"|(?:\.lora|_lora|\.lora_linear_layer)\.(?P<old>down|up)\.weight|\.(?P<other>[^.]+(?:\.weight)?))$"
)
_SIDES = {"A": 0, "down": 0, "B": 1, "up": 1}
_DIFFUSERS = (".lora_A.weight", ".lora_B.weight")
_KOHYA = (".lora_down.weight", ".lora_up.weight")


def spelling_of(keys: Iterable[str]) -> Spelling | None:
    """The spelling that a file's names are in; None where it is diffusers' or kohya's, or nobody's."""
    names = list(keys)
    return next((one for one in SPELLINGS if any(re.match(one.sign, key) for key in names)), None)


def respelled(file: Path, keys: Iterable[str], spelling: Spelling) -> Mapping[str, str]:
    """A file's keys by what diffusers or kohya calls the same tensors; endings that are no LoRA's stay as they are.

    Raises: DataError where two keys are names of one tensor.
    """
    found: dict[str, str] = {}
    for key in keys:
        name = _respell(key, spelling)
        if name in found:
            raise DataError(f"{file}: holds one layer twice, as {found[name][:80]!r} and {key[:80]!r}")
        found[name] = key
    return found


def without_ending(key: str) -> str:
    """The layer's name in a tensor's."""
    ending = _ENDINGS.search(key)
    return key if ending is None else key[: ending.start()]


def _respell(key: str, spelling: Spelling) -> str:
    ending = _ENDINGS.search(key)
    if ending is None:
        return key
    stem, side = key[: ending.start()], ending["new"] or ending["kohya"] or ending["old"]
    for pattern, rename in spelling.rules:
        if match := re.fullmatch(pattern, stem):
            name = rename(match)
            both = _KOHYA if name.startswith("lora_") else _DIFFUSERS
            return name + (both[_SIDES[side]] if side else f".{ending['other']}")
    return key
