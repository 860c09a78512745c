"""LoHa and LoKr files with LyCORIS' tensor names: what they train, from the header alone; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from ..errors import DataError
from .families import FAMILIES
from .kinds import JOINT_WIDTHS, WIDTHS
from .kohya import WORDS
from .lycoris_shapes import LABELS, Method, check_numbers, check_shapes, product_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .container import Header

MARKS: Mapping[Method, str] = {"loha": ".hada_", "lokr": ".lokr_"}
"""What the names of its tensors hold."""
KNOWN = "LoHa and LoKr files for Stable Diffusion 1.5, 3.5 and 3 are read that have LyCORIS' tensor names"
DENOISERS: Mapping[str, str] = {"sd15": "lora_unet", "sd35": "lycoris"}
"""By family, what the names of the denoiser's layers begin with in the files that are written: what ComfyUI maps, and
on SD1.5 every other reader. Text encoders have kohya's prefixes."""

_KEY = re.compile(r"(lora_unet|lora_te[123]?|lycoris|lora_transformer)_([A-Za-z0-9_]+)\.(\w+)")
_LEAVES: Mapping[Method, frozenset[str]] = {
    "loha": frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha"}),
    "lokr": frozenset({*(f"lokr_w{n}{side}" for n in "12" for side in ("", "_a", "_b")), "lokr_t2", "alpha"}),
}
_OTHER_LEAVES: Mapping[str, str] = {
    "dora_scale": "also decomposes the weight (DoRA), which is not supported for it",
    "lora_down": "holds LoRA layers, too, of which these would be left out",
    "lora_up": "holds LoRA layers, too, of which these would be left out",
    "diff": "holds whole differences of weights, too, which would be left out",
    "diff_b": "holds changes of biases, too, which would be left out",
    "w_norm": "trains norms, too, which would be left out",
    "b_norm": "trains norms, too, which would be left out",
}
_UNET = re.compile(r"(down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding)(_|$)")
_JOINT = re.compile(r"(transformer_blocks|context_embedder|time_text_embed|pos_embed|norm_out|proj_out)(_|$)")
_ORIGINAL = re.compile(r"(joint_blocks_\d+|context_embedder|[txy]_embedder|final_layer)(_|$)")
_WORDS = (
    *WORDS,
    *("conv_shortcut", "conv_in", "conv_out", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context"),
    *("norm1_context", "time_text_embed", "timestep_embedder", "text_embedder", "context_embedder", "norm_out"),
    *("pos_embed",),
)
"""Parts of layer names that hold a `_` of their own."""
_WORD = re.compile(f"({'|'.join(_WORDS)}|[^_]+)(?:_|$)")


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of one key's update."""

    method: Method
    names: Mapping[str, str]
    """Tensor names in the file by LyCORIS' own."""
    shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[str, ...]
    """diffusers' layers that they update, stacked in this order where it is one layer elsewhere."""
    turned: bool = False
    """Whether the two halves of the rows are the other way round than in diffusers."""

    @property
    def rank(self) -> int | None:
        """By what readers divide alpha; None where they take no scale at all, as where two whole matrices lie there."""
        for leaf in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b"):  # as ComfyUI and A1111 look it up
            if leaf in self.shapes:
                return self.shapes[leaf][0]
        return None

    @property
    def size(self) -> tuple[int, int]:
        """Rows of the weight, and the product of its other axes."""
        if self.method == "loha":
            return product_size(self.shapes, "hada_w1", "hada_t1")
        (out1, in1), (out2, in2) = product_size(self.shapes, "lokr_w1"), product_size(self.shapes, "lokr_w2", "lokr_t2")
        return out1 * out2, in1 * in2


@dataclass(frozen=True, slots=True)
class Found:
    """A LoHa or LoKr for a family that tuner knows."""

    method: Method
    family: str
    """The backbone's name."""
    components: Mapping[str, Mapping[str, Factors]]
    """By diffusers' component name, then by the layer's key in the file."""


def recognise(path: Path, header: Header) -> Found:
    """The LoHa or LoKr in a file.

    Raises: DataError with the reason where it is for another base, or would load in part.
    """
    method: Method = "loha" if any(MARKS["loha"] in key for key in header.tensors) else "lokr"
    layers: dict[tuple[str, str], dict[str, str]] = {}
    for key in header.tensors:
        match = _KEY.fullmatch(key)
        if match is None or match[3] not in _LEAVES[method]:
            _refuse(path, method, key, key.rpartition(".")[2] if match is None else match[3])
        layers.setdefault((match[1], match[2]), {})[match[3]] = key
    family = _family(path, header, method, list(layers))
    components: dict[str, dict[str, Factors]] = {}
    owners: dict[tuple[str, str], str] = {}
    for (prefix, layer), names in layers.items():
        component = _component(path, family, prefix, layer)
        stem = f"{prefix}_{layer}"
        shapes = {leaf: tuple(header.tensors[name].shape) for leaf, name in names.items()}
        check_numbers(path, header, names)
        check_shapes(path, stem, method, shapes)
        own, turned = _layers(path, family, component, layer, shapes)
        factors = Factors(method, names, shapes, own, turned)
        _check_rows(path, stem, factors)
        for name in own:
            if (other := owners.setdefault((component, name), stem)) != stem:
                raise DataError(f"{path}: holds one layer twice, as {other[:80]!r} and {stem[:80]!r}")
        components.setdefault(component, {})[stem] = factors
    found = Found(method, family, components)
    _check_width(path, found)
    return found


def dotted(layer: str) -> str:
    """`down_blocks_0_resnets_0_conv_shortcut` -> `down_blocks.0.resnets.0.conv_shortcut`."""
    return ".".join(match[1] for match in _WORD.finditer(layer))


def key_of(family: str, component: str, layer: str) -> str:
    """What a file that is written calls diffusers' layer; `layer` as files spell it (`lora.on_disk`)."""
    own = FAMILIES[family]
    prefix = DENOISERS[family] if component == own.denoiser else own.names.prefixes[component]
    return f"{prefix}_{layer.replace('.', '_')}"


def cross_width(found: Found) -> int | None:
    """Width of the text that the trained cross-attention reads; None where none is trained."""
    keys = found.components.get("unet", {}).items()
    return next((factors.size[1] for key, factors in keys if re.search(r"attn2_to_[kv]$", key)), None)


def joint_width(found: Found) -> int | None:
    """Width of the transformer's image stream; None where no layer that tells is trained."""
    for factors in found.components.get("transformer", {}).values():
        if re.search(r"\.(to_[qkv]|net\.0\.proj)$|norm1\.linear$", factors.layers[0]):
            return factors.size[1]
    return None


def _refuse(path: Path, method: Method, key: str, leaf: str) -> NoReturn:
    """Raises: DataError."""
    said = next((what for part, what in _OTHER_LEAVES.items() if key.rpartition(f".{part}")[1]), None)
    if said is None and any(mark in key for mark in MARKS.values()) and leaf not in _LEAVES[method]:
        other = next((LABELS[kind] for kind, mark in MARKS.items() if mark in key and kind != method), None)
        said = f"holds {other} layers, too, of which these would be left out" if other else None
    said = said or "has a key that is none of LyCORIS' for these models"
    raise DataError(f"{path}: is a {LABELS[method]} that {said} (key {key[:80]!r})", KNOWN)


def _family(path: Path, header: Header, method: Method, layers: list[tuple[str, str]]) -> str:
    """Raises: DataError where it is none that tuner knows."""
    own = header.metadata.get("tuner_backbone", "")
    for prefix, layer in layers:
        if prefix.startswith("lora_te"):
            continue
        if "single_transformer_blocks" in layer or re.match(r"(single|double)_blocks", layer):
            raise DataError(f"{path}: is for a transformer base such as FLUX (key {layer[:80]!r})", KNOWN)
        if _UNET.match(layer) and prefix != "lora_transformer":
            second = next((name for part, name in layers if part == "lora_te2"), None)
            if second is not None:
                raise DataError(f"{path}: is for SDXL (key {second[:80]!r})", KNOWN)
            return "sd15"
        if _JOINT.match(layer) or _ORIGINAL.match(layer):
            return "sd35"
        what = f"is a {LABELS[method]} that trains a layer which no base known here has"
        raise DataError(f"{path}: {what} (key {f'{prefix}_{layer}'[:80]!r})", KNOWN)
    if own in FAMILIES:
        return own
    if any(prefix == "lora_te2" for prefix, _ in layers):
        what = "trains text encoders alone, those of SDXL or of SD3.5, and does not say which"
        raise DataError(f"{path}: is a {LABELS[method]} that {what}", KNOWN)
    return "sd15"


def _component(path: Path, family: str, prefix: str, layer: str) -> str:
    """Raises: DataError where the family has no such part."""
    prefixes = FAMILIES[family].names.prefixes
    if not prefix.startswith("lora_te"):
        return FAMILIES[family].denoiser
    # both spellings of the first text encoder stand for the same one
    spelt = {own: component for component, own in prefixes.items()}
    spelt |= {"lora_te": "text_encoder", "lora_te1": "text_encoder"}
    if prefix not in spelt:
        t5 = prefix == "lora_te3"
        what = "T5, whose layers diffusers passes over" if t5 else "a part that its base does not have"
        raise DataError(f"{path}: trains {what} (key {f'{prefix}_{layer}'[:80]!r})", KNOWN)
    return spelt[prefix]


def _layers(
    path: Path, family: str, component: str, layer: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[str, ...], bool]:
    """Diffusers' layers, and whether their rows are turned. Raises: DataError where there is no such layer."""
    if component != "transformer":
        return (dotted(layer),), False
    names = FAMILIES[family].names
    if not _ORIGINAL.match(layer) or layer == "context_embedder":
        own = dotted(layer)
        if names.key(component, own) is None:
            raise DataError(
                f"{path}: is for a transformer base such as FLUX: SD3.5 and SD3 have no layer {layer[:80]}", KNOWN
            )
        return (own,), False
    found = names.restored(layer)
    if not found:
        raise DataError(f"{path}: SD3.5 and SD3 have no layer {layer[:80]}", KNOWN)
    rows, columns = Factors("loha" if "hada_w1_a" in shapes else "lokr", {}, shapes, found).size
    return found, len(found) == 1 and names.swaps(found[0], rows, columns)


def _check_rows(path: Path, stem: str, factors: Factors) -> None:
    """Raises: DataError where what is one layer in the file does not come apart into diffusers' layers."""
    parts = 2 if factors.turned else len(factors.layers)
    first = factors.size[0] if factors.method == "loha" else product_size(factors.shapes, "lokr_w1")[0]
    if parts > 1 and first % parts:
        many = f"{len(factors.layers)} layers of diffusers" if not factors.turned else "a layer with its halves turned"
        raise DataError(
            f"{path}: {stem} is {many}, and its Kronecker product does not come apart: w1 has {first} rows",
            "load it in ComfyUI, which has this layer in one",
        )


def _check_width(path: Path, found: Found) -> None:
    width = cross_width(found)
    if width is not None and width in WIDTHS and width != 768:
        raise DataError(
            f"{path}: is for {WIDTHS[width]}: its cross-attention reads {width} values a token, not 768", KNOWN
        )
    if joint_width(found) == 3072:
        raise DataError(f"{path}: is for {JOINT_WIDTHS[3072]}: its layers are 3072 values wide", KNOWN)
