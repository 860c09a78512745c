"""What is computed from pictures and the judges' embeddings: similarities, distances and spreads, with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Embeddings = NDArray[np.float32]
    """(N, D), each row of length 1."""


@dataclass(frozen=True, slots=True)
class Number:
    """A mean over pictures."""

    mean: float
    std: float
    """Standard deviation over the pictures; 0 where there is one."""
    n: int
    """Pictures."""
    error: float
    """Standard error of the mean."""

    @classmethod
    def of(cls, values: NDArray[np.floating], *, degree: int = 1) -> Self:
        """The mean of one value a picture.

        Args:
            values: (N,).
            degree: how many pictures each term of the mean is made of; 2 where a picture's value is its mean over pairs
                with the others. The error of such a mean is `degree` times std / sqrt(n) (Hoeffding 1948).

        Raises: ValueError where there is no value.
        """
        if values.size == 0:
            raise ValueError("a mean over nothing")
        spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
        return cls(float(values.mean()), spread, int(values.size), degree * spread / math.sqrt(values.size))


def to_references(drawn: Embeddings, photos: Embeddings) -> Number:
    """Similarity of each drawn picture to the subject's: its mean cosine over all photos.

    CLIP-I and DINO of Ruiz et al. 2023 (DreamBooth), section 4.2; the spread is over drawn pictures.
    """
    return Number.of((drawn @ photos.T).mean(1))


def among(photos: Embeddings) -> Number | None:
    """Similarity of each photo to the others, itself left out: what `to_references` gives another picture of its kind.

    None where there is one.
    """
    return None if len(photos) < 2 else Number.of(_others(photos), degree=2)


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
    """1 - cosine of two pictures from the same prompt and noise, with and without the adapter: 0 is untouched.

    Taken as |a - b|^2 / 2, which is the same for rows of length 1 and exactly 0 for equal ones.
    """
    return Number.of(((base - adapted) ** 2).sum(1) / 2)


def pixel_drift(base: Sequence[Image], adapted: Sequence[Image]) -> Number:
    """Root mean square difference of two pictures over pixels and channels; 1 is from black to white."""
    import numpy as np

    pairs = zip(base, adapted, strict=True)
    apart = [np.asarray(one, np.float64) - np.asarray(two, np.float64) for one, two in pairs]
    return Number.of(np.array([math.sqrt((difference**2).mean()) / 255 for difference in apart]))


def diversity(drawn: Embeddings) -> Number | None:
    """1 - cosine over all pairs of pictures of one prompt (DIV there, with these judges in place of LPIPS).

    A picture's value is its mean over pairs with the others, so the spread is over pictures. None where there is one.
    """
    return None if len(drawn) < 2 else Number.of((1 - _others(drawn)).clip(min=0), degree=2)


def _others(rows: Embeddings) -> NDArray[np.float32]:
    """Mean cosine of each row with the others, (N,)."""
    alike = rows @ rows.T
    return (alike.sum(1) - alike.diagonal()) / (len(rows) - 1)
