"""Three small numbers of a picture: which others it is like, and whether it is sharp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .record import Picture

SIDE = 512
"""Longest side at which sharpness is judged: about what a picture is trained at."""
MAX_BITS = 10
"""Pictures whose 64-bit hashes differ in more bits are not alike."""
MAX_TINY = 12.0
"""Nor are those whose 8 x 8 pictures differ by more levels (of 255) on average."""
_ROUNDING = 1 / 12
"""Variance of what rounding to whole levels adds to a pixel."""


def within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """`size` (W, H) scaled down so that its longer side has at most `side` pixels."""
    scale = min(1.0, side / max(size))
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def dhash(image: Image.Image) -> str:
    """64 bits, 16 hexadecimal digits: at 8 x 8 places, whether the picture is brighter to the right (N. Krawetz)."""
    import numpy as np

    gray = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes().hex()


def tiny(image: Image.Image) -> str:
    """The picture at 8 x 8 pixels, RGB, as 384 hexadecimal digits."""
    return image.resize((8, 8), Image.Resampling.BOX).tobytes().hex()


def sharpness(image: Image.Image) -> float:
    """The variance of the Laplacian over the variance of the first differences, at 512 pixels.

    The first alone would call every plain picture blurred; the quotient asks whether the edges that there are, are
    sharp. What rounding to 8 bits adds to each is taken off. 1 for a picture of one colour.
    """
    import numpy as np

    small = image.resize(within(image.size, SIDE), Image.Resampling.BOX)
    gray = np.asarray(small.convert("L"), dtype=np.float32)
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * gray[1:-1, 1:-1]
    slopes = float(np.square(np.diff(gray, axis=0)).mean() + np.square(np.diff(gray, axis=1)).mean())
    slopes -= 2 * _ROUNDING * 2
    return max(0.0, float(laplacian.var()) - _ROUNDING * 20) / slopes if slopes > 0 else 1.0


def distances(pictures: Sequence[Picture]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each pair, (n, n): the bits in which the hashes differ, and the levels by which the tiny pictures do."""
    import numpy as np

    hashes = np.array([int(picture.dhash, 16) for picture in pictures], dtype=np.uint64)
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None, :]).astype(np.int64)
    pixels = np.array([list(bytes.fromhex(picture.tiny)) for picture in pictures], dtype=np.float32).reshape(-1, 192)
    levels = np.stack([np.abs(pixels - row).mean(1) for row in pixels]) if len(pictures) else np.zeros((0, 0), "f4")
    return bits, levels
