"""What is computed from the judges' embeddings: similarities, distances and spreads, each with its sampling error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Embeddings = NDArray[np.float32]
    """(N, D), each row of length 1."""


@dataclass(frozen=True, slots=True)
class Number:
    """A mean over pictures or pairs."""

    mean: float
    std: float
    """Standard deviation over them; 0 where there is one."""
    n: int

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Self:
        """Raises: ValueError where there is no value."""
        if values.size == 0:
            raise ValueError("a mean over nothing")
        spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
        return cls(float(values.mean()), spread, int(values.size))

    @property
    def error(self) -> float:
        """Standard error of the mean, as if the values were independent."""
        return self.std / math.sqrt(self.n)


def to_references(drawn: Embeddings, photos: Embeddings) -> Number:
    """Similarity of each drawn picture to the subject's: its mean cosine over all photos.

    CLIP-I and DINO of Ruiz et al. 2023 (DreamBooth), section 4.2; the spread is over drawn pictures.
    """
    return Number.of((drawn @ photos.T).mean(1))


def to_nearest(drawn: Embeddings, photos: Embeddings) -> Number:
    """Similarity of each drawn picture to the photo that is nearest to it: near 1 is copying."""
    return Number.of((drawn @ photos.T).max(1))


def among_nearest(photos: Embeddings) -> Number | None:
    """Similarity of each photo to the nearest other one: how alike two pictures of this subject are anyway."""
    if len(photos) < 2:
        return None
    alike = photos @ photos.T
    alike[range(len(photos)), range(len(photos))] = -1
    return Number.of(alike.max(1))


def pairwise(one: Embeddings, two: Embeddings) -> Number:
    """Cosine of each row with the same row of the other: pictures and their texts (CLIP-T, section 4.2 there)."""
    return Number.of((one * two).sum(1))


def drift(base: Embeddings, adapted: Embeddings) -> Number:
    """1 - cosine of two pictures from the same prompt and noise, with and without the adapter: 0 is untouched."""
    return Number.of((1 - (base * adapted).sum(1)).clip(min=0))


def diversity(drawn: Embeddings) -> Number | None:
    """1 - cosine over all pairs of pictures of one prompt (DIV there, with these judges in place of LPIPS)."""
    if len(drawn) < 2:
        return None
    first, second = [], []
    for row in range(len(drawn)):
        for other in range(row + 1, len(drawn)):
            first.append(row)
            second.append(other)
    return Number.of((1 - (drawn[first] * drawn[second]).sum(1)).clip(min=0))
