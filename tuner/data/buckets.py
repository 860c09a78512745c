"""Which picture sizes a run trains at: sides are multiples of a step, areas as near to resolution² as that allows."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..sections import DataOptions

MAX_ASPECT = 2.5
"""Longer side over shorter side of the longest bucket. A longer picture goes there and is cropped more."""


def buckets(resolution: int, step: int) -> list[tuple[int, int]]:
    """Every bucket (W, H) in pixels, the widest last.

    Both sides are multiples of `step`, the area is at most resolution² and no side could be one step longer. The
    square is always there: resolution x resolution, or the nearest multiple of `step` below it.

    Raises: ValueError if not even one step fits.
    """
    return list(_buckets(resolution, step))


@lru_cache(maxsize=64)
def _buckets(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    if not 1 <= step <= resolution:
        raise ValueError(f"resolution {resolution} is smaller than the bucket step {step}")
    area = resolution * resolution // (step * step)  # in steps², so that everything below is exact
    square = resolution // step
    found = {(square, square)}
    for width in range(1, area + 1):
        height = area // width
        if height and area // height == width and max(width, height) <= MAX_ASPECT * min(width, height):
            found.add((width, height))
    return tuple((w * step, h * step) for w, h in sorted(found, key=lambda wh: (wh[0] / wh[1], wh)))


def assign(size: tuple[int, int], buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose aspect is nearest to that of `size` (W, H) on a log scale; of equals the largest.

    The rule does not tell width from height: a transposed picture goes to the transposed bucket.
    """
    lean = _lean(size)
    return min(buckets, key=lambda b: (abs(_lean(b) - lean), -b[0] * b[1], abs(_lean(b)), b))


def _lean(size: tuple[int, int]) -> float:
    """Log of the aspect; a difference of logs, so that transposing flips the sign exactly."""
    return math.log(size[0]) - math.log(size[1])


def size_for(size: tuple[int, int], data: DataOptions) -> tuple[int, int]:
    """The size (W, H) that a picture of `size` is trained at."""
    if data.crop != "buckets":
        return (data.resolution, data.resolution)
    return assign(size, _buckets(data.resolution, data.bucket_step))


def scale_to(size: tuple[int, int], target: tuple[int, int]) -> float:
    """How much a picture of `size` is enlarged (above 1) or reduced to cover `target`."""
    return max(target[0] / size[0], target[1] / size[1])


def kept(size: tuple[int, int], target: tuple[int, int]) -> float:
    """Share of the area of a picture of `size` that is left once it covers `target` and is cropped to it."""
    scale = scale_to(size, target)
    return target[0] * target[1] / (size[0] * size[1] * scale * scale)
