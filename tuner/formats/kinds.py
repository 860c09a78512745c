"""What kind of file this is and what it trains, from the names and shapes in its header; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

from ..errors import DataError
from .families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
    """A LoRA for a family that tuner knows."""

    style: Style
    family: str
    """The backbone's name."""
    components: Mapping[str, Mapping[str, Factors]]
    """By diffusers' component name, then by the layer's key in the file."""


KNOWN = "LoRA files for Stable Diffusion 1.5, 3.5 and 3 with diffusers' or kohya's keys are read"
"""What to say to a file that is none of them."""
WIDTHS: Mapping[int, str] = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    2048: "SDXL",
}
"""Width of the text that the UNet's cross-attention reads -> the family."""
JOINT_WIDTHS: Mapping[int, str] = {
    1536: "Stable Diffusion 3 or 3.5, medium",
    2432: "Stable Diffusion 3.5, large",
    3072: "FLUX or another transformer of its width",
}
"""Width of a transformer's image stream -> the base."""

_BLOCKS = "down_blocks|up_blocks|mid_block|transformer_blocks"
OTHERS: tuple[tuple[str, str], ...] = (
    (r"(^|\.)(lokr_|hada_)", "a LoKr or LoHa; diffusers has no loader for it here"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA, whose magnitudes diffusers drops without a word"),
    (r"lora_mid\.weight", "a convolution LoRA with a middle factor, which diffusers drops"),
    (r"^lora_te3_|^text_encoder_3\.", "trained on T5, too, whose layers diffusers passes over"),
    (r"^lora_transformer_", "a LoRA with OneTrainer's own keys; let OneTrainer save it for diffusers or kohya"),
    (r"single_transformer_blocks|^lora_unet_(double|single)_blocks", "for a transformer base such as FLUX"),
    (r"^(string_to_param|emb_params|clip_l|clip_g|t5xxl)$", "a textual inversion embedding, not a LoRA"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.", "a whole checkpoint, not a LoRA"),
    (rf"^({_BLOCKS})\..*lora", "a LoRA that does not say which model its layers are of"),
    (rf"^({_BLOCKS}|encoder\.down)\.", "the weights of a whole model, not a LoRA"),
    (r"^lycoris_", "a LyCORIS file with its own names"),
)
"""What a key says about a file that is no LoRA for a family that tuner knows."""

_DIFFUSERS = re.compile(
    r"(unet|transformer|text_encoder|text_encoder_2)\.(.+?)(?:\.lora_(A|B)|(?:\.lora|\.lora_linear_layer|_lora)\.(down|up))\.weight"
)
"""peft's names, and those that diffusers wrote before it used peft."""
_KOHYA = re.compile(r"(lora_(unet|te|te1|te2)_[A-Za-z0-9_]+)\.(lora_down\.weight|lora_up\.weight|alpha)")
_FLOATS = {"F64", "F32", "F16", "BF16"}


def recognise(path: Path, header: Header) -> Found:
    """The LoRA in a file.

    Raises: DataError with the reason, where this is no LoRA for Stable Diffusion 1.5 or 3.5, or one that would load in
        part.
    """
    if not header.tensors:
        raise DataError(f"{path}: holds no tensors, so it would change nothing")
    for key in header.tensors:
        for pattern, what in OTHERS:
            if re.search(pattern, key):
                raise DataError(f"{path}: is {what} (key {key[:80]!r})", KNOWN)
    diffusers = [match for key in header.tensors if (match := _DIFFUSERS.fullmatch(key))]
    kohya = [match for key in header.tensors if (match := _KOHYA.fullmatch(key))]
    if len(header.tensors) not in (len(diffusers), len(kohya)):
        _refuse_strange(path, header)
    family = _family(path, header, [*diffusers, *kohya])
    found = _diffusers(path, diffusers, family) if diffusers else _kohya(path, kohya, family)
    _check_names(path, found)
    for layers in found.components.values():
        for layer, factors in layers.items():
            _check(path, header, layer, factors)
    _check_width(path, header, found)
    return found


def _refuse_strange(path: Path, header: Header) -> NoReturn:
    """Raises: DataError."""
    known = {key for key in header.tensors if _DIFFUSERS.fullmatch(key) or _KOHYA.fullmatch(key)}
    strange = next((key for key in header.tensors if key not in known), next(iter(header.tensors)))
    what = "mixes keys of different formats" if known else "is no LoRA with diffusers' or kohya's keys"
    raise DataError(f"{path}: {what} (key {strange[:80]!r})", KNOWN)


def _family(path: Path, header: Header, matches: Sequence[re.Match[str]]) -> str:
    """The backbone whose layers these are, by the denoiser's; a file without any must say so itself.

    Raises: DataError where that is none that tuner knows.
    """
    joint = [match for match in matches if match[2] == "unet" and FAMILIES["sd35"].names.layers(match[1])]
    if joint or any(match[1] == "transformer" for match in matches):
        return "sd35"
    second = next((match[0] for match in matches if match[1] == "text_encoder_2" or match[2] == "te2"), None)
    if second is None:
        return "sd15" if header.metadata.get("tuner_backbone") not in FAMILIES else header.metadata["tuner_backbone"]
    alone = not any("unet" in (match[1], match[2]) for match in matches)
    if alone and header.metadata.get("tuner_backbone") == "sd35":
        return "sd35"
    what = "trains text encoders alone, those of SDXL or of SD3.5, and does not say which" if alone else "is for SDXL"
    raise DataError(f"{path}: {what} (key {second[:80]!r})", KNOWN)


def _put(path: Path, parts: dict[str, str], part: str, key: str) -> None:
    """Raises: DataError where two spellings of one name stand in the file, of which one would be lost."""
    if part in parts:
        raise DataError(f"{path}: holds one layer twice, as {parts[part][:80]!r} and {key[:80]!r}")
    parts[part] = key


def _diffusers(path: Path, matches: Sequence[re.Match[str]], family: str) -> Found:
    """Raises: DataError where a layer stands there twice."""
    components: dict[str, dict[str, dict[str, str]]] = {}
    for match in matches:
        component, layer, side, old_side = match.groups()
        place = re.sub(r"\.processor\.(to_\w+)$", r".\1", layer)
        place = re.sub(r"\.to_out$", ".to_out.0", place) if component == "unet" else place
        side = side or {"down": "A", "up": "B"}[old_side]
        _put(path, components.setdefault(component, {}).setdefault(f"{component}.{place}", {}), side, match[0])
    return Found(
        "diffusers",
        family,
        {
            component: {layer: Factors(sides.get("A", ""), sides.get("B", "")) for layer, sides in layers.items()}
            for component, layers in components.items()
        },
    )


def _kohya(path: Path, matches: Sequence[re.Match[str]], family: str) -> Found:
    """Raises: DataError where a text encoder is none of this family's, or a layer stands there twice."""
    prefixes = FAMILIES[family].names.prefixes
    own = {prefix.removeprefix("lora_"): component for component, prefix in prefixes.items()}
    own |= {"te1" if kind == "te" else "te" if kind == "te1" else kind: component for kind, component in own.items()}
    components: dict[str, dict[str, dict[str, str]]] = {}
    for match in matches:
        stem, kind, part = match.groups()
        if kind not in own:
            raise DataError(f"{path}: {stem[:80]!r} names a part that {FAMILIES[family].label} does not have")
        component = own[kind]
        # both spellings of the first text encoder stand for the same layer
        layer = stem.replace(f"lora_{kind}_", f"{prefixes[component]}_", 1)
        _put(path, components.setdefault(component, {}).setdefault(layer, {}), part, match[0])
    return Found(
        "kohya",
        family,
        {
            component: {
                layer: Factors(parts.get("lora_down.weight", ""), parts.get("lora_up.weight", ""), parts.get("alpha"))
                for layer, parts in layers.items()
            }
            for component, layers in components.items()
        },
    )


def _check_names(path: Path, found: Found) -> None:
    """Raises: DataError where a transformer's layer is none of SD3's."""
    names = FAMILIES[found.family].names
    for key in found.components.get("transformer", {}):
        layer = key.removeprefix("transformer.")
        if (names.layers(key) if found.style == "kohya" else names.key("transformer", layer)) is None:
            raise DataError(
                f"{path}: is for a transformer base such as FLUX: SD3.5 and SD3 have no layer {key[:80]}", KNOWN
            )


def _check_width(path: Path, header: Header, found: Found) -> None:
    """Raises: DataError where a width is another family's, or a fused layer does not come apart."""
    for component, layers in found.components.items() if found.style == "kohya" else ():
        for key, factors in layers.items():
            parts = FAMILIES[found.family].names.layers(key)
            rows = header.tensors[factors.up].shape[0]
            if parts is not None and rows % len(parts[1]):
                raise DataError(f"{path}: {key} of the {component} has {rows} rows, not {len(parts[1])} equal parts")
    width = cross_width(header, found)
    if width is not None and width in WIDTHS and width != 768:
        raise DataError(
            f"{path}: is for {WIDTHS[width]}: its cross-attention reads {width} values a token, not 768", KNOWN
        )
    if (width := joint_width(header, found)) == 3072:
        raise DataError(f"{path}: is for {JOINT_WIDTHS[width]}: its layers are {width} values wide", KNOWN)


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


def joint_width(header: Header, found: Found) -> int | None:
    """Width of the transformer's image stream; None where no layer that tells is trained."""
    for key, factors in found.components.get("transformer", {}).items():
        if re.search(r"attn2?[._](qkv|to_[qkv])$|norm1\.linear$|net\.0\.proj$|mlp_fc1$|adaLN_modulation_1$", key):
            return header.tensors[factors.down].shape[1]
    return None
