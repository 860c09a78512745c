"""The best matrix of a given rank (Eckart and Young 1936), of a full matrix or of a product that is never multiplied.

The energy of a matrix is the sum of its squared entries, which is that of its squared singular values; what a rank
keeps is the share of the largest of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much of each layer to keep: one of the two is set."""

    rank: int | None = None
    energy: float | None = None
    """Share to keep at least, in (0, 1]."""

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.energy is None):
            raise UsageError("say how much to keep by one of --rank and --energy", "such as --rank 16 or --energy 0.95")
        if self.rank is not None and self.rank < 1:
            raise UsageError(f"--rank {self.rank} keeps nothing", "a rank is 1 or more")
        if self.energy is not None and not 0 < self.energy <= 1:  # so that it is no NaN either
            raise UsageError(f"--energy {self.energy:g} is no share", "write a number such as 0.95, at most 1")

    def of(self, spectrum: Spectrum) -> int:
        """The rank for one layer; 1 at least."""
        if self.energy is None:
            assert self.rank is not None
            return min(self.rank, spectrum.rank)
        return spectrum.rank_for(self.energy)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A matrix as left @ diag(values) @ right, float64, without what is zero."""

    left: Tensor
    """(rows, n), orthonormal columns."""
    values: Tensor
    """(n,), falling; at least one."""
    right: Tensor
    """(n, columns), orthonormal rows."""
    total: float
    """The matrix's energy."""

    @property
    def rank(self) -> int:
        return int(self.values.numel())

    def kept(self, rank: int) -> float:
        """Energy of the best matrix of this rank."""
        return float((self.values[:rank] ** 2).sum())

    def rank_for(self, share: float) -> int:
        """The smallest rank that keeps this share of the energy; all of it where rounding leaves no smaller one."""
        sums = (self.values**2).cumsum(0)
        enough = (sums >= share * self.total).nonzero()
        return int(enough[0]) + 1 if len(enough) else self.rank

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Down (rank, columns) and up (rows, rank), float32: each with the root of the values, so none is tiny."""
        roots = self.values[:rank].sqrt()
        return (roots[:, None] * self.right[:rank]).float().contiguous(), (self.left[:, :rank] * roots).float()


def of_product(down: Tensor, up: Tensor, scale: float) -> Spectrum:
    """The spectrum of scale * up @ down, by QR of both factors: nothing larger than they are is made.

    Args:
        down: (rank, columns).
        up: (rows, rank).
        scale: what the product is multiplied by.
    """
    import torch

    rows, upper = torch.linalg.qr(up.double())
    columns, lower = torch.linalg.qr(down.double().T)
    left, values, right = torch.linalg.svd(scale * (upper @ lower.T), full_matrices=False)
    return _trimmed(rows @ left, values, right @ columns.T, float((values**2).sum()))


def of_matrix(matrix: Tensor) -> Spectrum:
    """The spectrum of a matrix, by the eigenvectors of the smaller of its two Gram matrices.

    In float64 that tells values apart down to some 1e-8 of the largest, and is many times faster than an SVD.
    """
    import torch

    wide = matrix.double()
    turned = wide.shape[0] < wide.shape[1]
    tall = wide.T if turned else wide
    squares, vectors = torch.linalg.eigh(tall.T @ tall)
    values, vectors = squares.clamp(min=0).sqrt().flip(0), vectors.flip(1)
    solid = values > values[:1] * 1e-7 if float(values[0]) > 0 else values > 0
    values, vectors = values[solid], vectors[:, solid]
    left = (tall @ vectors) / values
    total = float((wide**2).sum())
    pair = (vectors, left.T) if turned else (left, vectors.T)
    return _trimmed(pair[0], values, pair[1], total)


def _trimmed(left: Tensor, values: Tensor, right: Tensor, total: float) -> Spectrum:
    """Without the values that float64 cannot tell from zero; one is left, so that a layer has a rank."""
    if not math.isfinite(total):
        raise ValueError("holds values that are not finite")
    solid = max(1, int((values > values[:1] * 1e-12).sum())) if values.numel() else 0
    if solid == 0:  # of_matrix found a matrix of zeros
        return Spectrum(left.new_zeros(left.shape[0], 1), left.new_zeros(1), left.new_zeros(1, right.shape[1]), 0.0)
    return Spectrum(left[:, :solid], values[:solid], right[:solid], total)
