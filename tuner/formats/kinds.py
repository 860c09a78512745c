"""What kind of file this is and what it trains, from the names and shapes in its header; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .container import Header

Style = Literal["diffusers", "kohya"]


@dataclass(frozen=True, slots=True)
class Factors:
    """Tensor names of one layer."""

    down: str
    up: str
    alpha: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A LoRA for Stable Diffusion 1.5."""

    style: Style
    components: Mapping[str, Mapping[str, Factors]]
    """By component, then by the layer's key in the file."""


WIDTHS: Mapping[int, str] = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    2048: "SDXL",
}
"""Width of the text that cross-attention reads -> the family."""

OTHERS: tuple[tuple[str, str], ...] = (
    (r"(^|\.)(lokr_|hada_)", "a LoKr or LoHa; diffusers has no loader for it here"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA, whose magnitudes diffusers drops without a word"),
    (r"lora_mid\.weight", "a convolution LoRA with a middle factor, which diffusers drops"),
    (r"^lora_te2_|^text_encoder_2\.", "for SDXL, not for Stable Diffusion 1.5"),
    (
        r"^transformer\.|^lora_transformer_|^lora_unet_(joint|double|single)_blocks|^lora_te3_",
        "for a transformer base such as SD3.5 or FLUX",
    ),
    (r"^(string_to_param|emb_params|clip_l|clip_g|t5xxl)$", "a textual inversion embedding, not a LoRA"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.", "a whole checkpoint, not a LoRA"),
    (r"^(down_blocks|up_blocks|mid_block)\..*lora", "a LoRA that does not say which model its layers are of"),
    (r"^(down_blocks|up_blocks|mid_block|encoder\.down)\.", "the weights of a whole model, not a LoRA"),
    (r"^lycoris_", "a LyCORIS file with its own names"),
)
"""What a key says about a file that is no LoRA for Stable Diffusion 1.5."""

_DIFFUSERS = re.compile(
    r"(unet|text_encoder)\.(.+?)(?:\.lora_(A|B)|(?:\.lora|\.lora_linear_layer|_lora)\.(down|up))\.weight"
)
"""peft's names, and those that diffusers wrote before it used peft."""
_KOHYA = re.compile(r"(lora_(unet|te|te1)_[A-Za-z0-9_]+)\.(lora_down\.weight|lora_up\.weight|alpha)")
_FLOATS = {"F64", "F32", "F16", "BF16"}


def recognise(path: Path, header: Header) -> Found:
    """The LoRA in a file.

    Raises: DataError with the reason, where this is no LoRA for Stable Diffusion 1.5 or one that would load in part.
    """
    if not header.tensors:
        raise DataError(f"{path}: holds no tensors, so it would change nothing")
    for key in header.tensors:
        for pattern, what in OTHERS:
            if re.search(pattern, key):
                raise DataError(f"{path}: is {what} (key {key[:80]!r})")
    found = _diffusers(header) or _kohya(header)
    if found is None:
        strange = next(
            (key for key in header.tensors if not _DIFFUSERS.fullmatch(key) and not _KOHYA.fullmatch(key)),
            next(iter(header.tensors)),
        )
        known = any(_DIFFUSERS.fullmatch(key) or _KOHYA.fullmatch(key) for key in header.tensors)
        what = "mixes keys of different formats" if known else "is no LoRA with diffusers' or kohya's keys"
        raise DataError(f"{path}: {what} (key {strange[:80]!r})")
    for layers in found.components.values():
        for layer, factors in layers.items():
            _check(path, header, layer, factors)
    width = cross_width(header, found)
    if width is not None and width in WIDTHS and width != 768:
        raise DataError(f"{path}: is for {WIDTHS[width]}: its cross-attention reads {width} values a token, not 768")
    return found


def _diffusers(header: Header) -> Found | None:
    components: dict[str, dict[str, dict[str, str]]] = {}
    for key in header.tensors:
        match = _DIFFUSERS.fullmatch(key)
        if match is None:
            return None
        component, layer, side, old_side = match.groups()
        place = re.sub(r"\.processor\.(to_\w+)$", r".\1", layer)
        place = re.sub(r"\.to_out$", ".to_out.0", place) if component == "unet" else place
        side = side or {"down": "A", "up": "B"}[old_side]
        components.setdefault(component, {}).setdefault(f"{component}.{place}", {})[side] = key
    return Found(
        "diffusers",
        {
            component: {layer: Factors(sides.get("A", ""), sides.get("B", "")) for layer, sides in layers.items()}
            for component, layers in components.items()
        },
    )


def _kohya(header: Header) -> Found | None:
    components: dict[str, dict[str, dict[str, str]]] = {}
    for key in header.tensors:
        match = _KOHYA.fullmatch(key)
        if match is None:
            return None
        stem, kind, part = match.groups()
        component = "unet" if kind == "unet" else "text_encoder"
        # both spellings of the text encoder stand for the same layer
        layer = stem.replace("lora_te1_", "lora_te_", 1)
        components.setdefault(component, {}).setdefault(layer, {})[part] = key
    return Found(
        "kohya",
        {
            component: {
                layer: Factors(parts.get("lora_down.weight", ""), parts.get("lora_up.weight", ""), parts.get("alpha"))
                for layer, parts in layers.items()
            }
            for component, layers in components.items()
        },
    )


def _check(path: Path, header: Header, layer: str, factors: Factors) -> None:
    if not factors.down or not factors.up:
        raise DataError(f"{path}: {layer} has only one of its two factors")
    down, up = header.tensors[factors.down], header.tensors[factors.up]
    if len(down.shape) != 2 or len(up.shape) != 2:
        raise DataError(f"{path}: {layer} is a convolution's update, which is not supported here")
    if down.shape[0] != up.shape[1] or 0 in (*down.shape, *up.shape):
        raise DataError(f"{path}: the factors of {layer} do not fit together: {list(down.shape)} and {list(up.shape)}")
    for key in filter(None, (factors.down, factors.up, factors.alpha)):
        if header.tensors[key].dtype not in _FLOATS:
            raise DataError(f"{path}: {key} holds {header.tensors[key].dtype} numbers; F32, F16 or BF16 are expected")
    if factors.alpha and header.tensors[factors.alpha].shape not in ((), (1,)):
        raise DataError(f"{path}: {factors.alpha} is not one number")


def cross_width(header: Header, found: Found) -> int | None:
    """Width of the text that the trained cross-attention reads; None where none is trained."""
    for key, factors in found.components.get("unet", {}).items():
        if re.search(r"attn2[._]to_[kv]$", key):
            return header.tensors[factors.down].shape[1]
    return None
