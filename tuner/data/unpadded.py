"""Embeddings without the zeros that pad them: what is stored of an array, and the array again, bit for bit."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.float32]]

MOST_BANDS = 4
"""An array whose rows end in more ways than this is no padded one and stays whole."""

_BAND = re.compile(r"(?P<name>.+)\[(?P<rows>\d+)x(?P<columns>\d+)\]\+(?P<start>\d+)")


def trim(arrays: Arrays) -> dict[str, NDArray[np.float32]]:
    """Arrays (L, D) as bands of rows without the zeros at their ends, `text[333x4096]+0` the one that starts at row 0.

    SD3's CLIPs are half as wide as its T5, and padded to its width; a T5 that is not there is zeros altogether.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for name, array in arrays.items():
        bands = _bands(array) if array.ndim == 2 else []
        if 0 < len(bands) <= MOST_BANDS and any(width < array.shape[1] for _, _, width in bands):
            rows, columns = array.shape
            for start, count, width in bands:
                if width:
                    found[f"{name}[{rows}x{columns}]+{start}"] = array[start : start + count, :width].copy()
        else:
            found[name] = array
    return found


def restored(arrays: Arrays) -> dict[str, NDArray[np.float32]]:
    """What `trim` was given."""
    import numpy as np

    found: dict[str, NDArray[np.float32]] = {}
    for name, array in arrays.items():
        band = _BAND.fullmatch(name)
        if band is None:
            found[name] = array
            continue
        whole = found.setdefault(band["name"], np.zeros((int(band["rows"]), int(band["columns"])), np.float32))
        start = int(band["start"])
        whole[start : start + len(array), : array.shape[1]] = array
    return found


def _bands(array: NDArray[np.float32]) -> list[tuple[int, int, int]]:
    """(first row, rows, width without the zeros at the end) of each run of rows alike; none if all is zero."""
    import numpy as np

    some = np.ascontiguousarray(array).view(np.uint32) != 0  # a negative zero is not nothing
    widths = np.where(some.any(1), array.shape[1] - some[:, ::-1].argmax(1), 0)
    bands, start = [], 0
    for width, run in groupby(widths.tolist()):
        count = len(list(run))
        bands.append((start, count, width))
        start += count
    return bands if widths.any() else []
