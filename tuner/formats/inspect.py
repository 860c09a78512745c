"""What an adapter file is, who made it and which tool loads it, from its header alone; imports no torch."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .container import Header, read_header
from .find import find_files, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

DTYPES: Mapping[str, str] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64"}


def inspect_file(path: str | Path) -> dict[str, Any]:
    """What is known of an adapter file (or of the one in a run's folder), as values that JSON can hold.

    Keys: `file`, `beside`, `kind`, `format`, `backbone`, `family`, `rank`, `alpha`, `targets`, `parameters`, `dtype`,
    `size_bytes`, `title`, `trigger`, `base`, `base_identity`, `weights`, `resolution`, `steps`, `recipe`, `loads_in`,
    `problem`. What the file does not tell is None; `problem` says why it cannot be used; `beside` holds the same of
    other files that are loaded along with it, as after a run that taught a word together with a LoRA. A kind may have
    keys of its own.

    Raises: DataError where the file is no readable safetensors file.
    """
    file, *others = find_files(Path(path))
    header = read_header(file)
    kind = kind_of(header)
    told = _told(file, header.metadata)
    facts: dict[str, Any] = {
        "file": file.name,
        "beside": [inspect_file(other) for other in others],
        "kind": kind.name,
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
        return facts | kind.facts(file, header)
    except DataError as error:
        return facts | {"problem": error.message.removeprefix(f"{file}: ")}


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


def _dtype(header: Header) -> str | None:
    kinds = {entry.dtype for entry in header.tensors.values() if len(entry.shape) > 1}
    return "/".join(sorted(DTYPES.get(kind, kind) for kind in kinds)) or None


def _count(header: Header, key: str) -> int:
    return math.prod(header.tensors[key].shape)
