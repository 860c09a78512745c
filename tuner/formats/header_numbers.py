"""The one number of a small tensor, read from its bytes; imports no torch."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .container import Header

_FORMATS = {"F64": "<d", "F32": "<f", "F16": "<e"}


def number(file: Path, header: Header, key: str) -> float:
    """The value of a tensor of one float."""
    entry = header.tensors[key]
    with file.open("rb") as data:
        data.seek(entry.start)
        raw = data.read(entry.end - entry.start)
    if entry.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    return float(struct.unpack(_FORMATS[entry.dtype], raw)[0])
