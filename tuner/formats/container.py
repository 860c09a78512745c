"""safetensors files: a header read strictly and without torch, and bytes that follow from the content alone."""

from __future__ import annotations

import json
import math
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from ..errors import DataError, NumbersError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    Pieces = Sequence[Tensor]

MAX_HEADER_BYTES = 16 * 2**20
"""Headers above this are refused before they are read; a LoRA's has some 100 KB."""
MAX_TENSORS = 100_000
MAX_NAME = 1000
"""Letters of a tensor's name; what is printed of a file repeats them."""

ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
"""Bytes of one number by the format's name of its type."""

_AGAIN = "copy or download the file again; a file that was cut off looks like this"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies."""

    dtype: str
    """The format's name: F32, F16, BF16 ..."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the start of the file."""
    end: int
    """One past the last byte."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]
    size: int
    """Bytes of the whole file."""


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked against the file's size.

    Raises: DataError naming the file and what is wrong with it.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would be to wait for ever
            raise DataError(f"{path}: cannot be read: it is no plain file")
        size = found.st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if len(head) < 8 or length > size - 8:
                raise DataError(f"{path}: is cut off or not a safetensors file ({size} bytes)", _AGAIN)
            if length > MAX_HEADER_BYTES:
                raise DataError(f"{path}: its header claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
            text = file.read(length)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a path that can be none
        raise DataError(f"{path}: cannot be read: {error}") from error
    tree = _parse(path, text)
    metadata = tree.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DataError(f"{path}: its metadata is not a table of texts")
    try:
        "".join([*tree, *metadata, *metadata.values()]).encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a pair, which no text can hold
        raise DataError(f"{path}: its header is not valid JSON: half a pair of surrogates", _AGAIN) from error
    if len(tree) > MAX_TENSORS:
        raise DataError(f"{path}: lists {len(tree):,} tensors; at most {MAX_TENSORS:,} are read")
    if strange := next((name for name in tree if len(name) > MAX_NAME or not name.isprintable()), None):
        raise DataError(f"{path}: has a tensor with the name {strange[:60]!r}, which is none that a tool writes")
    tensors = {name: _entry(path, name, value, 8 + length) for name, value in tree.items()}
    _check_layout(path, tensors, 8 + length, size)
    return Header(metadata, tensors, size)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name stands twice")
        return table

    try:
        tree = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its header is not valid JSON: {str(error)[:200]}", _AGAIN) from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: its header is not a table of tensors")
    return tree


def _entry(path: Path, name: str, value: object, offset: int) -> Entry:
    if not isinstance(value, dict):
        raise DataError(f"{path}: tensor {name[:100]!r} has no description")
    dtype, shape, place = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise DataError(f"{path}: tensor {name[:100]!r} has the unknown type {str(dtype)[:40]!r}")
    if not _counts(shape) or not _counts(place) or len(place) != 2:
        raise DataError(f"{path}: tensor {name[:100]!r} has no valid shape and place")
    return Entry(dtype, tuple(shape), offset + place[0], offset + place[1])


def _counts(value: object) -> TypeGuard[list[int]]:
    """Whether this is a short list of whole numbers that a file can hold."""
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in value)
    )


def _check_layout(path: Path, tensors: Mapping[str, Entry], offset: int, size: int) -> None:
    """Tensors fill the file without a hole or an overlap, and each is as long as its shape says."""
    at = offset
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != at or entry.end - entry.start != math.prod(entry.shape) * ITEM_BYTES[entry.dtype]:
            raise DataError(f"{path}: tensor {name[:100]!r} does not lie where its header says", _AGAIN)
        at = entry.end
    if at != size:
        raise DataError(f"{path}: has {size:,} bytes where its header describes {at:,}", _AGAIN)


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: equal tensors and metadata give equal bytes.

    The library's own writer keeps metadata in a hash map, so its bytes differ from process to process
    (safetensors 0.8).
    """
    order = _order(tensors)
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name in order:
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _names()[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + payload(tensors)


def write_file(path: Path, pieces: Mapping[str, Pieces], metadata: Mapping[str, str], dtype: torch.dtype) -> None:
    """Write a safetensors file tensor by tensor, so that a whole model needs no second copy in memory.

    Equal content gives equal bytes, as with `pack`.

    Args:
        path: where to.
        pieces: by name, tensors that are one along their first axis.
        metadata: texts of the header.
        dtype: of the numbers in the file.

    Raises: NumbersError for a value that is not finite in `dtype`; OSError.
    """
    import torch

    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name in sorted(pieces):
        shape = joined_shape(pieces[name])
        end = at + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _names()[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for name in sorted(pieces):
            for piece in pieces[name]:
                value = piece.detach().to("cpu", dtype).contiguous()
                if not bool(torch.isfinite(value).all()):
                    raise NumbersError(
                        f"{name}: holds values that are not finite in {_names()[dtype]}",
                        "set save.dtype to fp32; if training did this, lower train.lr and start again",
                    )
                file.write(value.reshape(-1).view(torch.uint8).numpy().data)


def joined_shape(pieces: Pieces) -> tuple[int, ...]:
    """Shape of tensors put together along their first axis."""
    first = pieces[0].shape
    return (sum(piece.shape[0] for piece in pieces), *first[1:]) if len(pieces) > 1 else tuple(first)


def payload(tensors: Mapping[str, Tensor]) -> bytes:
    """The numbers alone, in the order in which `pack` writes them."""
    import torch

    flat = (tensors[name].detach().cpu().contiguous().reshape(-1) for name in _order(tensors))
    return b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in flat)


def _order(tensors: Mapping[str, Tensor]) -> Sequence[str]:
    """Wide types first, so that each tensor starts at a multiple of its item size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _names() -> Mapping[torch.dtype, str]:
    import torch

    return {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
