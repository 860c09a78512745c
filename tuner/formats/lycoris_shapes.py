"""Whether the factors of one layer of a LoHa or LoKr fit together, by their shapes; imports no torch."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .container import Header

Method = Literal["loha", "lokr"]
LABELS: Mapping[Method, str] = {"loha": "LoHa", "lokr": "LoKr"}
FLOATS = {"F64", "F32", "F16", "BF16"}


def check_numbers(path: Path, header: Header, names: Mapping[str, str]) -> None:
    for leaf, name in names.items():
        entry = header.tensors[name]
        if entry.dtype not in FLOATS:
            raise DataError(f"{path}: {name} holds {entry.dtype} numbers; F32, F16 or BF16 are expected")
        if leaf == "alpha" and tuple(entry.shape) not in ((), (1,)):
            raise DataError(f"{path}: {name} is not one number")


def check_shapes(path: Path, stem: str, method: Method, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises: DataError where a factor is missing, there twice, or does not fit the others."""
    there = shapes.keys() - {"alpha"}
    if method == "loha":
        whole = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
        complete = there in (whole, whole | {"hada_t1", "hada_t2"})
        pairs = [("hada_w1", "hada_t1"), ("hada_w2", "hada_t2")]
    else:
        first, second = there & {"lokr_w1", "lokr_w1_a", "lokr_w1_b"}, there - {"lokr_w1", "lokr_w1_a", "lokr_w1_b"}
        complete = first in ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
        complete &= second in ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"})
        pairs = [("lokr_w1", ""), ("lokr_w2", "lokr_t2")]
    if not complete:
        raise DataError(f"{path}: {stem} has the factors {', '.join(sorted(there))}, which make no {LABELS[method]}")
    faults = [name for name, middle in pairs if not _fits(shapes, name, middle)]
    sizes = [] if faults or method == "lokr" else [product_size(shapes, name, middle) for name, middle in pairs]
    if faults or len(set(sizes)) > 1 or any(0 in shape for shape in shapes.values()):
        said = ", ".join(f"{leaf} {list(shapes[leaf])}" for leaf in sorted(there))
        raise DataError(f"{path}: the factors of {stem} do not fit together: {said}")


def _fits(shapes: Mapping[str, tuple[int, ...]], name: str, middle: str) -> bool:
    if name in shapes:  # a whole matrix, or a convolution's
        return len(shapes[name]) == 2 or (len(shapes[name]) == 4 and name == "lokr_w2")
    outer, inner = shapes[f"{name}_a"], shapes[f"{name}_b"]
    if len(outer) != 2 or len(inner) != 2:
        return False
    if middle not in shapes:
        return outer[1] == inner[0]
    return len(shapes[middle]) == 4 and shapes[middle][:2] == (outer[0], inner[0])


def product_size(shapes: Mapping[str, tuple[int, ...]], name: str, middle: str = "") -> tuple[int, int]:
    """Rows, and the product of the other axes, of the matrix that these factors make."""
    if name in shapes:
        return shapes[name][0], prod(shapes[name][1:])
    outer, inner = shapes[f"{name}_a"], shapes[f"{name}_b"]
    if middle in shapes:
        return outer[1], inner[1] * prod(shapes[middle][2:])
    return outer[0], inner[1]
