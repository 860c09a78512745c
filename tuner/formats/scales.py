"""By what a layer's factors are multiplied: an alpha beside them, or peft's configuration."""

from __future__ import annotations

import json
import math
import re
import struct
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .spellings import spelling_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .container import Header
    from .kinds import Found


BESIDE = "adapter_config.json"
"""Where peft itself keeps the configuration of an adapter."""
MOST_BYTES = 2**20
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")


def scale_of(file: Path, header: Header, component: str, key: str, rank: int, alpha: float | None) -> float:
    """Alpha / rank of one layer.

    Args:
        file: for messages.
        header: the file's.
        component: diffusers' name of the model.
        key: the layer's key in the file.
        rank: the layer's own.
        alpha: as a tensor beside the factors gives it; None where there is none.

    Raises: DataError where the header's configuration is broken.
    """
    if alpha is not None:
        return alpha / rank
    config = adapter_config(file, header)
    layer = key.removeprefix(f"{component}.")
    patterns, otherwise = (config.get(f"{component}.{field}") for field in ("alpha_pattern", "lora_alpha"))
    value = _number(file, _pattern(patterns, layer, otherwise))
    if value is None:
        return 1.0
    return value / math.sqrt(rank) if config.get(f"{component}.use_rslora") else value / rank


def same_alphas(file: Path, header: Header, found: Found) -> bool:
    """Whether every layer of a file with kohya's keys has one alpha.

    Where there are several, diffusers 0.42.1 gives most layers of a UNet's attention the commonest: it looks them up
    by a name that it has changed meanwhile.
    """
    alphas = {
        number_of(file, header, factors.alpha) if factors.alpha else None
        for layers in found.components.values()
        for factors in layers.values()
    }
    return len(alphas) == 1


def number_of(file: Path, header: Header, key: str) -> float:
    """The one number of a small tensor."""
    entry = header.tensors[key]
    with file.open("rb") as data:
        data.seek(entry.start)
        raw = data.read(entry.end - entry.start)
    if entry.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    return float(struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[entry.dtype], raw)[0])


def adapter_config(file: Path, header: Header) -> Mapping[str, Any]:
    """Peft's configuration, its fields by `<component>.<field>`: of the header, or of the file that peft writes beside.

    Raises: DataError where it is broken, or a file with peft's own keys has none, whose alpha stands nowhere else.
    """
    told = header.metadata.get("lora_adapter_metadata")
    if told is not None:
        return _table(file, told, "lora_adapter_metadata")
    spelling = spelling_of(header.tensors)
    if spelling is None or spelling.name != "peft":
        return {}
    path = file.with_name(BESIDE)
    try:
        text = path.read_text("utf-8") if path.is_file() and path.stat().st_size < MOST_BYTES else None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: its {BESIDE} cannot be read: {error}") from error
    if text is None:
        raise DataError(f"{file}: has peft's own keys, and no {BESIDE} beside it says its alpha", "put that file there")
    fields = _table(file, text, BESIDE)
    return {f"{component}.{field}": value for component in COMPONENTS for field, value in fields.items()}


def _table(file: Path, text: str, name: str) -> Mapping[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: its {name} is not valid JSON") from error
    if not isinstance(config, dict):
        raise DataError(f"{file}: its {name} is not a table")
    return config


def _pattern(patterns: object, layer: str, otherwise: Any) -> Any:
    """As peft looks a layer up: the first pattern that its name ends with, at a dot."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                return value
        except re.error:
            continue
    return otherwise


def _number(file: Path, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise DataError(f"{file}: its lora_adapter_metadata has the alpha {str(value)[:40]!r}, which is no number")
    return float(value)
