"""A1111's hypernetwork files (`.pt`): the one pickle that tuner writes, and what it reads of those that others wrote.

The format is that of AUTOMATIC1111/stable-diffusion-webui, modules/hypernetworks/hypernetwork.py: a table with a pair
of state dicts for each width, under the width as a number, beside words on the structure. ComfyUI reads the same
(comfy_extras/nodes_hypernetwork.py).
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

from .. import atomic
from ..errors import DataError, StorageError, TunerError, UsageError
from ..nn.hypernetwork_structure import SIDES
from .about import base_name, without_private
from .container import read_header
from .families import FAMILIES
from .hypernetwork import PREFIX, Described, describe, from_words, misfit, pack, read_weights, to_words
from .pickles import read_pickle

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from .container import Header

COMFY = {"linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid", "softsign", "mish"}
"""Activations that ComfyUI's loader knows; others it refuses."""
SD2_WIDTH = 1024
"""The text of Stable Diffusion 2. A1111's form offers it beside SD1's widths, where it matches nothing."""
FORKED = ("skip_connection", "upsample_linear")
"""Words of a fork of A1111's trainer that change what the networks compute."""
PLAIN = (str, bool, int, float, list, tuple, type(None))
"""What A1111's words are made of."""
OLD_NAMES = {
    f"linear{number + 1}.{part}": f"linear.{number}.{part}" for number in (0, 1) for part in ("weight", "bias")
}
"""Names in A1111's first files."""
_A1111_TAKES = re.compile(r"[^/]+/(data/\d+|version|data\.pkl)")
"""What A1111's check of an archive (modules/safe.py) lets pass; newer torch writes more, which it calls malicious."""


@dataclass(frozen=True, slots=True)
class Written:
    """What an export or import left."""

    file: Path
    source: Path
    found: Described
    warnings: list[str] = field(default_factory=list)


def export_pt(source: Path, header: Header, out: Path) -> Written:
    """Write a hypernetwork as A1111's `.pt`, and read it back.

    Raises: DataError where the file is broken or for a base that A1111 has no hypernetworks for; UsageError where `out`
        is there; StorageError where what was written is not what was read.
    """
    found = describe(source, header)
    if found.family != "sd15":
        label = FAMILIES[found.family].label
        raise DataError(f"{source}: is for {label}; A1111 and ComfyUI have hypernetworks for Stable Diffusion 1 alone")
    _require_free(out)
    weights = read_weights(source)
    tree = _tree(found, weights, header.metadata, out.stem)
    atomic.write(out, _archive(tree))
    _compare(out, found, weights)
    return Written(out, source, found, _warnings(found))


def _tree(found: Described, weights: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> dict[Any, Any]:
    """A1111's table: widths first, then words, each that any of its versions looks up."""
    from .. import __version__

    tree: dict[Any, Any] = {}
    for width in found.widths:
        names = found.structure.shapes(width)  # in order: ComfyUI takes the layers as they come
        tree[width] = tuple({name: weights[f"{width}.{side}.{name}"] for name in names} for side in SIDES)
    words = to_words(found.structure, found.init)
    dropout = words["dropout_structure"]
    steps = metadata.get("ss_steps", "")
    base = metadata.get("tuner_base") or metadata.get("ss_sd_model_name")
    return tree | {
        "step": int(steps) if steps.isdecimal() and len(steps) < 16 else 0,
        "name": name,
        **words,
        "use_dropout": any(dropout),
        "last_layer_dropout": dropout[-2] > 0,
        "sd_checkpoint": None,
        "sd_checkpoint_name": base,
        "optional_info": f"made with tuner {__version__}",
    }


def _archive(tree: Mapping[Any, Any]) -> bytes:
    """`torch.save` without the entries that A1111 refuses; equal tables give equal bytes."""
    import torch

    whole, kept = BytesIO(), BytesIO()
    torch.save(dict(tree), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if _A1111_TAKES.fullmatch(entry.filename):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    return kept.getvalue()


def _compare(out: Path, found: Described, weights: Mapping[str, Tensor]) -> None:
    """Read a `.pt` back and hold it against what it was made of, bit for bit.

    Raises: StorageError; the file is removed.
    """
    import torch

    try:
        back = _read(out)
        same = back.weights.keys() == weights.keys() and back.found == found
        fault = None if same else "its structure differs"
        for name, value in weights.items() if same else ():
            if not torch.equal(back.weights[name], value):
                fault = f"{name} differs"
    except TunerError as error:
        fault = error.message
    if fault is not None:
        out.unlink(missing_ok=True)
        raise StorageError(f"{out}: read back after it was written, {fault}", "it was removed; try again")


def _warnings(found: Described) -> list[str]:
    """What ComfyUI makes of it otherwise than A1111, as read in its source."""
    structure, lines = found.structure, []
    if structure.activation not in COMFY:
        lines.append(f"ComfyUI does not load it: it does not know the activation {structure.activation}")
    elif structure.layer_norm and structure.activation != "linear" and not structure.activate_output:
        lines.append(
            "ComfyUI computes something else with it: where there is a layer norm, it lets the activation follow the "
            "last layer, too"
        )
    return lines


def import_pt(path: Path, out: Path) -> Written:
    """Write A1111's `.pt` as a safetensors file, for Stable Diffusion 1, and read it back.

    Raises: DataError where the file is no hypernetwork that can be used; UsageError where `out` is there; StorageError.
    """
    _require_free(out)
    return import_tree(path, read_pickle(path), out)


def import_tree(path: Path, tree: object, out: Path) -> Written:
    """As `import_pt`, of what was read already."""
    import torch

    read = _parsed(path, tree)
    tensors = {f"{PREFIX}{name}": value for name, value in read.weights.items()}
    atomic.write(out, pack(tensors, read.found.structure, read.found.init, read.found.family, read.told))
    back = read_weights(out)
    same = describe(out, read_header(out)) == read.found
    if not same or any(not torch.equal(back[name], value.float()) for name, value in read.weights.items()):
        out.unlink(missing_ok=True)
        raise StorageError(
            f"{out}: read back after it was written, it differs from {path}", "it was removed; try again"
        )
    return Written(out, path, read.found, read.warnings)


def _require_free(out: Path) -> None:
    if out.exists():
        raise UsageError(f"{out} is there already", "choose another name with --out")


@dataclass(frozen=True, slots=True)
class _Read:
    found: Described
    weights: dict[str, Tensor]
    told: dict[str, str]
    warnings: list[str]


def is_hypernetwork(tree: object) -> bool:
    """Whether what a pickle holds is meant as a hypernetwork: a table of networks by width."""
    return isinstance(tree, dict) and any(type(key) is int for key in tree)


def _read(path: Path) -> _Read:
    """What a `.pt` holds. Raises: DataError."""
    return _parsed(path, read_pickle(path))


def _parsed(path: Path, tree: object) -> _Read:
    """Raises: DataError."""
    if not isinstance(tree, dict) or not any(type(key) is int for key in tree):
        raise DataError(
            f"{path}: is no hypernetwork: it has no table of networks by width",
            "only hypernetworks are imported from pickles",
        )
    words = {key: value for key, value in tree.items() if isinstance(key, str)}
    if strange := [key for key, value in words.items() if not isinstance(value, PLAIN)]:
        raise DataError(f"{path}: its {strange[0][:40]!r} is no number, text or list")
    if forked := [key for key in FORKED if words.get(key)]:
        raise DataError(f"{path}: was trained by a fork of A1111 with {forked[0]}, which A1111 itself does not know")
    try:
        structure = from_words(_words(words))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: is a hypernetwork that cannot be understood: {error}") from error
    pairs = {key: value for key, value in tree.items() if type(key) is int}
    warnings = _unused(path, pairs)
    weights: dict[str, Tensor] = {}
    for width, pair in sorted(pairs.items()):
        for side, network in zip(SIDES, _pair(path, width, pair), strict=True):
            if fault := misfit(structure, width, {name: tuple(value.shape) for name, value in network.items()}):
                raise DataError(f"{path}: width {width}, side {side}: {fault}")
            weights |= {f"{width}.{side}.{name}": network[name] for name in structure.shapes(width)}
    _check_numbers(path, weights)
    init = str(words.get("weight_initialization", "Normal"))[:40]
    found = Described("sd15", structure, init, tuple(sorted(pairs)))
    return _Read(found, {name: value.contiguous() for name, value in weights.items()}, _told(words), warnings)


def _unused(path: Path, pairs: dict[int, Any]) -> list[str]:
    """Take out what matches no layer of Stable Diffusion 1, and say so. Raises: DataError where nothing is left."""
    if SD2_WIDTH not in pairs:
        return []
    if not pairs.keys() & {768, 320, 640}:
        raise DataError(f"{path}: is for Stable Diffusion 2: its networks take text of {SD2_WIDTH} values, not 768")
    del pairs[SD2_WIDTH]
    return [
        f"the networks of width {SD2_WIDTH} are left out: Stable Diffusion 1 has no such tokens, so they did nothing"
    ]


def _words(words: Mapping[str, Any]) -> dict[str, Any]:
    """The structure's words with A1111's answers where a file leaves one out."""
    layers = words.get("layer_structure") or [1, 2, 1]
    activation = words.get("activation_func") or "linear"
    dropout = words.get("dropout_structure")
    if dropout is None and isinstance(layers, list | tuple):
        dropout = _old_dropout(len(layers), words)
    activated = words.get("activate_output", True)
    return {
        "layer_structure": layers,
        "activation_func": activation,
        "activate_output": activated if activation != "linear" else False,
        "is_layer_norm": words.get("is_layer_norm", False),
        "dropout_structure": dropout,
    }


def _old_dropout(count: int, words: Mapping[str, Any]) -> list[float]:
    """What files said in two flags before they had a list: 0.3 behind every inner layer, the last one apart."""
    if not words.get("use_dropout"):
        return [0.0] * count
    inner = [0.3] * max(count - 2, 0)
    if inner and not words.get("last_layer_dropout", False):
        inner[-1] = 0.0
    return [0.0, *inner, 0.0]


def _pair(path: Path, width: int, pair: object) -> list[dict[str, Tensor]]:
    """The two networks of a width, their weights by name. Raises: DataError."""
    import torch

    if not isinstance(pair, list | tuple) or len(pair) != len(SIDES) or not all(isinstance(n, dict) for n in pair):
        raise DataError(f"{path}: width {width} has no pair of networks")
    found = []
    for network in pair:
        named = {OLD_NAMES.get(name, name): value for name, value in network.items()}
        for name, value in named.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise DataError(f"{path}: width {width} holds {str(name)[:40]!r}, which is no tensor with a name")
        found.append(named)
    return found


def _check_numbers(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raises: DataError for a tensor of no plain floats, or one that claims more numbers than it holds."""
    import torch

    floats = (torch.float32, torch.float16, torch.bfloat16)
    for name, value in weights.items():
        if value.dtype not in floats or value.layout != torch.strided or value.device.type != "cpu":
            raise DataError(f"{path}: {name} holds {value.dtype} numbers; 16 or 32 bit floats are expected")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise DataError(f"{path}: {name} claims more numbers than the file holds")
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{path}: {name} holds values that are not finite")


def _told(words: Mapping[str, Any]) -> dict[str, str]:
    """What an imported file says of its past."""
    told = {"tuner_imported": "a hypernetwork of AUTOMATIC1111"}
    name, step, base = (words.get(key) for key in ("name", "step", "sd_checkpoint_name"))
    if isinstance(name, str):
        told["modelspec.title"] = without_private(name)[:200]
    if type(step) is int and 0 <= step < 10**15:
        told["ss_steps"] = str(step)
    if isinstance(base, str):
        told["ss_sd_model_name"] = base_name(without_private(base))[:200]
    return told
