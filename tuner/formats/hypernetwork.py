"""The file of a hypernetwork: A1111's networks by their names, their structure in the header; imports no torch.

A1111's own format is a pickle (`hypernetwork_pt.py`), which no run writes. The tensors here have its names, with
`hypernetwork.`, the width and the side (`k`, `v`) before them; the header's `hypernetwork` holds its words.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, get_args

from ..atomic import storage
from ..errors import DataError, NumbersError
from ..nn.hypernetwork_structure import SIDES, Activation, Structure
from . import container
from .families import FAMILIES
from .metadata import run_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from .about import About
    from .container import Header

ENDING = ".hypernetwork.safetensors"
PREFIX = "hypernetwork."
"""What the name of every tensor starts with."""
WORDS = "hypernetwork"
"""The key of the header that holds the structure as JSON."""

PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # A1111 and ComfyUI look up the width of the tokens at every attention of the UNet, the picture's own included
    "sd15": {"k": ("attn1.to_k", "attn2.to_k"), "v": ("attn1.to_v", "attn2.to_v")},
    "sd35": {"k": ("attn.add_k_proj",), "v": ("attn.add_v_proj",)},
}
"""By backbone and side, endings of the names of the projections that a hypernetwork stands before."""

INITS: Mapping[str, str] = {
    "zero": "Normal",  # that is what it is, but for the last layer; A1111 reads no word that it does not know
    "normal": "Normal",
    "xavier_uniform": "XavierUniform",
    "xavier_normal": "XavierNormal",
    "kaiming_uniform": "KaimingUniform",
    "kaiming_normal": "KaimingNormal",
}
"""Our word for a start -> A1111's."""

MAX_LAYERS, MAX_FACTOR, MAX_WIDTH = 32, 64, 2**16
"""Above these a file is refused before anything is built."""
_NAME = re.compile(r"hypernetwork\.([1-9]\d{0,5})\.([kv])\.(linear\.\d{1,3}\.(?:weight|bias))")
_FLOATS = {"F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class Described:
    """What a header says of a hypernetwork."""

    family: str
    """The backbone's name."""
    structure: Structure
    init: str
    """How it started, in A1111's word."""
    widths: tuple[int, ...]


def places(family: str, names: list[str]) -> dict[str, list[str]]:
    """Of a denoiser's module names, the projections by side."""
    return {side: [name for name in names if name.endswith(endings)] for side, endings in PLACES[family].items()}


def to_words(structure: Structure, init: str) -> dict[str, Any]:
    """A structure in A1111's words. `init` is A1111's, too."""
    return {
        "layer_structure": [int(size) if size == int(size) else size for size in structure.layers],
        "activation_func": structure.activation,
        "activate_output": structure.activate_output,
        "is_layer_norm": structure.layer_norm,
        "dropout_structure": [0, *structure.dropout],
        "weight_initialization": init,
    }


def from_words(words: Mapping[str, Any]) -> Structure:
    """The structure that `to_words` wrote.

    Raises: ValueError with what is wrong.
    """
    layers, dropout = words.get("layer_structure"), words.get("dropout_structure")
    if not _numbers(layers) or not 2 <= len(layers) <= MAX_LAYERS or layers[0] != 1 or layers[-1] != 1:
        raise ValueError(f"its layer_structure is {_shown(layers)}, not numbers that start and end with 1")
    if not all(0 < size <= MAX_FACTOR for size in layers):
        raise ValueError(f"its layer_structure {_shown(layers)} has sizes beyond 0 to {MAX_FACTOR}")
    if not _numbers(dropout) or len(dropout) != len(layers) or not all(0 <= share < 1 for share in dropout):
        raise ValueError(f"its dropout_structure is {_shown(dropout)}, not {len(layers)} shares from 0 to below 1")
    if words.get("activation_func") not in get_args(Activation):
        raise ValueError(f"its activation {_shown(words.get('activation_func'))} is not known here")
    flags = {key: words.get(key) for key in ("activate_output", "is_layer_norm")}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"its {key} is {_shown(value)}, not true or false")
    return Structure(
        layers=tuple(float(size) for size in layers),
        activation=words["activation_func"],
        activate_output=words["activate_output"],
        layer_norm=words["is_layer_norm"],
        dropout=tuple(float(share) for share in dropout[1:]),
    )


def _numbers(value: object) -> TypeGuard[Sequence[float]]:
    return isinstance(value, list | tuple) and all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in value
    )


def _shown(value: object) -> str:
    return repr(value)[:60]


def describe(path: Path, header: Header) -> Described:
    """What a file holds, its names and shapes checked against the structure.

    Raises: DataError naming what is wrong.
    """
    family, init, structure = _told(path, header)
    found: dict[int, dict[str, dict[str, tuple[int, ...]]]] = {}
    for key, entry in header.tensors.items():
        match = _NAME.fullmatch(key)
        if match is None:
            raise DataError(f"{path}: is a hypernetwork with a tensor of another kind (key {key[:80]!r})")
        if entry.dtype not in _FLOATS:
            raise DataError(f"{path}: {key} holds {entry.dtype} numbers; F32, F16 or BF16 are expected")
        width, side, name = int(match[1]), match[2], match[3]
        found.setdefault(width, {}).setdefault(side, {})[name] = entry.shape
    if not found:
        raise DataError(f"{path}: holds no tensors, so it would change nothing")
    for width, sides in found.items():
        for side in SIDES:
            if fault := misfit(structure, width, sides.get(side, {})):
                raise DataError(f"{path}: width {width}, side {side}: {fault}")
    return Described(family, structure, init, tuple(sorted(found)))


def misfit(structure: Structure, width: int, found: Mapping[str, tuple[int, ...]]) -> str | None:
    """How the weights of one network differ from what its structure says; None where they are the same."""
    if width > MAX_WIDTH:
        return f"no model is {width} wide"
    want = structure.shapes(width)
    if odd := sorted(want.keys() ^ found.keys()):
        return f"{odd[0]} is {'missing' if odd[0] in want else 'one too many'} for its layer_structure and options"
    for name, shape in want.items():
        if tuple(found[name]) != shape:
            return f"{name} has shape {list(found[name])}, where its layer_structure gives {list(shape)}"
    return None


def _told(path: Path, header: Header) -> tuple[str, str, Structure]:
    """Family, start and structure. Raises: DataError."""
    family = header.metadata.get("tuner_backbone", "")
    if family not in PLACES:
        known = ", ".join(FAMILIES)
        raise DataError(f"{path}: is a hypernetwork that does not say for which family it is ({known})")
    try:
        words = json.loads(header.metadata.get(WORDS, ""))
        if not isinstance(words, dict):
            raise ValueError("its structure is not a table")
        return family, str(words.get("weight_initialization")), from_words(words)
    except (ValueError, RecursionError, OverflowError) as error:
        raise DataError(f"{path}: is a hypernetwork whose header cannot be understood: {error}") from error


def pack(tensors: Mapping[str, Tensor], structure: Structure, init: str, family: str, told: Mapping[str, str]) -> bytes:
    """The bytes of a file.

    Args:
        tensors: by `hypernetwork.<width>.<side>.<A1111's name>`.
        init: how it started, in A1111's word.
        told: what else its header says.
    """
    words = json.dumps(to_words(structure, init), sort_keys=True)
    return container.pack(tensors, {**told, "format": "pt", "tuner_backbone": family, WORDS: words})


def write_hypernetwork(
    folder: Path, state: Mapping[str, Tensor], structure: Structure, init: str, about: About
) -> list[Path]:
    """Write `<run>.hypernetwork.safetensors`, and its part of the card.

    Args:
        state: float32, by name as in the file.
        init: our word for how it started.

    Raises: NumbersError for values that are not finite, or do not fit into the dtype; StorageError.
    """
    from .hypernetwork_card import write_card

    path = folder / f"{about.name}{ENDING}"
    tensors = _cast(state, about)
    content = pack(tensors, structure, INITS[init], about.family, run_header(about, "hypernetwork"))
    with storage(path):
        path.write_bytes(content)
    widths = sorted({int(name.split(".")[1]) for name in state})
    return [path, write_card(folder, about, path.name, structure, widths)]


def _cast(state: Mapping[str, Tensor], about: About) -> dict[str, Tensor]:
    import torch

    dtype: torch.dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[about.dtype]
    cast = {}
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NumbersError(f"{name}: holds values that are not finite", "lower the learning rate, then start again")
        cast[name] = tensor.detach().to("cpu", dtype)
        if not bool(torch.isfinite(cast[name]).all()):
            raise NumbersError(f"{name}: its values do not fit into {about.dtype}", "set save.dtype to fp32 or bf16")
    return cast


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a file that `describe` has checked, float32, by `<width>.<side>.<A1111's name>`.

    Raises: DataError where a value is not finite or the file cannot be read.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                tensor = file.get_tensor(key).float()
                if not bool(torch.isfinite(tensor).all()):
                    raise DataError(f"{path}: {key} holds values that are not finite")
                found[key.removeprefix(PREFIX)] = tensor
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return found
