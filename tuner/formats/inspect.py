"""What an adapter file is, who made it and which tool loads it, from its header alone; imports no torch."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .container import Header, read_header
from .families import FAMILIES, TURNED_IN_COMFY, turned_in_comfy
from .kinds import JOINT_WIDTHS, WIDTHS, Found, cross_width, joint_width, recognise
from .load import find_file

if TYPE_CHECKING:
    from collections.abc import Mapping

DTYPES: Mapping[str, str] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64"}


def inspect_file(path: str | Path) -> dict[str, Any]:
    """What is known of an adapter file (or of the one in a run's folder), as values that JSON can hold.

    Keys: `file`, `format`, `backbone`, `family`, `rank`, `alpha`, `targets`, `parameters`, `dtype`, `size_bytes`,
    `title`, `trigger`, `base`, `base_identity`, `weights`, `resolution`, `steps`, `recipe`, `loads_in`, `problem`. What
    the file does not tell is None; `problem` says why it is no LoRA for a family that tuner knows.

    Raises: DataError where the file is no readable safetensors file.
    """
    file = find_file(Path(path))
    header = read_header(file)
    told = _told(file, header.metadata)
    facts: dict[str, Any] = {
        "file": file.name,
        "format": None,
        "backbone": None,
        "family": None,
        "rank": None,
        "alpha": None,
        "targets": None,
        "parameters": sum(_count(header, key) for key in header.tensors if not key.endswith(".alpha")),
        "dtype": _dtype(header),
        "size_bytes": header.size,
        **told,
        "loads_in": {},
        "problem": None,
    }
    try:
        found = recognise(file, header)
    except DataError as error:
        return facts | {"problem": error.message.removeprefix(f"{file}: ")}
    return facts | _lora_facts(file, header, found)


def _lora_facts(file: Path, header: Header, found: Found) -> dict[str, Any]:
    ranks = {header.tensors[f.down].shape[0] for layers in found.components.values() for f in layers.values()}
    alphas = {
        _number(file, header, factors.alpha) if factors.alpha else None
        for layers in found.components.values()
        for factors in layers.values()
    }
    rank = ranks.pop() if len(ranks) == 1 else sorted(ranks)
    alpha = alphas.pop() if len(alphas) == 1 else sorted(alphas, key=str)
    if found.style == "diffusers":
        alpha = _adapter_alpha(header.metadata) or rank
    return {
        "format": found.style,
        "backbone": found.family,
        "family": _family(header, found),
        "rank": rank,
        "alpha": alpha,
        "targets": {component: len(layers) for component, layers in found.components.items()},
        "loads_in": loads_in(header, found),
    }


def _family(header: Header, found: Found) -> str:
    """The base's name as far as its layers tell."""
    label, own = FAMILIES[found.family].label, header.metadata.get("tuner_backbone") == found.family
    base = f"{label}'s layout" if own else "another base"
    if found.family == "sd35":
        width, dual = joint_width(header, found), any("attn2" in key for key in found.components.get("transformer", ()))
        if width == 1536 and dual:  # only MMDiT-X has a second attention
            return "Stable Diffusion 3.5, medium"
        return label if width is None else JOINT_WIDTHS.get(width, f"{base}, width {width}")
    width = cross_width(header, found)
    return label if width is None else WIDTHS.get(width, f"{base}, text width {width}")


def loads_in(header: Header, found: Found) -> dict[str, str]:
    """What each tool does with the file."""
    family = FAMILIES[found.family]
    text = any(component.startswith("text_encoder") for component in found.components)
    whole = "all of it" if not text else "all of it, text encoder included"
    part = {"unet": "UNet"}.get(family.denoiser, family.denoiser)
    alone = f"all of it by load_lora_weights; {family.denoiser}.load_lora_adapter takes the {part}'s part"
    if not family.kohya_in_diffusers:
        ignored = "NOTHING: it passes over these keys with no more than a warning; `tuner export FILE --to diffusers`"
        kohya = found.style == "kohya"
        comfy = whole if kohya or not _turned(header, found) else f"all of it, but {TURNED_IN_COMFY}"
        return {"diffusers": ignored if kohya else alone if text else "all of it", "ComfyUI": comfy}
    others = ("AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI")
    if found.style == "kohya":
        return dict.fromkeys(("diffusers", *others), whole)
    note = "not these keys; take the file beside it with kohya's, or `tuner export FILE --to kohya`"
    return {"diffusers": alone if text else "all of it", **dict.fromkeys(others, note)}


def _turned(header: Header, found: Found) -> bool:
    """Whether a file with diffusers' keys trains a layer that ComfyUI takes the wrong way round."""
    return any(
        turned_in_comfy(found.family, key.removeprefix("transformer."), header.tensors[factors.up].shape[0], width)
        for key, factors in found.components.get("transformer", {}).items()
        for width in header.tensors[factors.down].shape[1:]
    )


def _told(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the header says, and where that says nothing, the sidecars beside the file."""
    sidecar = _sidecar(file)
    steps = metadata.get("ss_steps", "")
    resolution = re.match(r"\d+", metadata.get("modelspec.resolution", ""))
    return {
        "title": metadata.get("modelspec.title"),
        "trigger": metadata.get("modelspec.trigger_phrase") or sidecar.get("activation text") or None,
        "base": metadata.get("tuner_base") or metadata.get("ss_sd_model_name") or _card_base(file),
        "base_identity": metadata.get("tuner_base_identity"),
        "weights": metadata.get("tuner_weights"),
        "resolution": int(resolution[0]) if resolution else None,
        "steps": int(steps) if steps.isdecimal() and len(steps) < 16 else None,
        "recipe": metadata.get("tuner_recipe"),
        "metadata": dict(metadata),
    }


def _sidecar(file: Path) -> dict[str, str]:
    path = file.with_suffix(".json")
    try:
        tree = json.loads(path.read_text("utf-8")) if path.is_file() and path.stat().st_size < 2**20 else {}
    except (OSError, ValueError, RecursionError):
        return {}  # a stranger's file beside ours; what it would have told stays unknown
    return {key: value for key, value in tree.items() if isinstance(value, str)} if isinstance(tree, dict) else {}


def _card_base(file: Path) -> str | None:
    """`base_model` of the card beside the file."""
    path = file.with_name("README.md")
    try:
        text = path.read_text("utf-8") if path.is_file() and path.stat().st_size < 2**20 else ""
    except (OSError, UnicodeDecodeError):
        return None
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    line = re.search(r'^base_model: "?([\w./-]+)"?$', front[1], re.MULTILINE) if front else None
    return line[1] if line else None


def _adapter_alpha(metadata: Mapping[str, str]) -> float | int | None:
    """Alpha as peft's configuration in the header states it, where all components agree."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return None
    values = (
        {value for key, value in config.items() if key.endswith(".lora_alpha")} if isinstance(config, dict) else set()
    )
    value = values.pop() if len(values) == 1 else None
    return value if isinstance(value, int | float) else None


def _number(file: Path, header: Header, key: str) -> float:
    """The one number of a small tensor."""
    entry = header.tensors[key]
    with file.open("rb") as data:
        data.seek(entry.start)
        raw = data.read(entry.end - entry.start)
    if entry.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    return float(struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[entry.dtype], raw)[0])


def _dtype(header: Header) -> str | None:
    kinds = {entry.dtype for entry in header.tensors.values() if len(entry.shape) > 1}
    return "/".join(sorted(DTYPES.get(kind, kind) for kind in kinds)) or None


def _count(header: Header, key: str) -> int:
    return math.prod(header.tensors[key].shape)
