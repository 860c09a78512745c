"""Low-rank Kronecker product (LyCORIS), through peft."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from pydantic import Field

from .injected import Injected

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from ..draws import Draws
    from .injected import Shape, Shapes


class LoKr(Injected, name="lokr"):
    """A Kronecker product of two small matrices, W + w1 (x) w2, the larger of them of a low rank. Very small files."""

    method = "lokr"
    rehearsal = {"train.steps": 250, "train.lr": 1e-2}

    rank: int = Field(default=16, ge=1, le=10_000)
    """Rank of a matrix that is made of two factors; a matrix whose longer side is at most twice the rank is whole."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """Scale numerator: the update is multiplied by alpha / rank, but by 1 where both matrices are whole; null means
    alpha = rank."""
    factor: int | None = Field(default=None, ge=2, le=1024)
    """Largest side of the first matrix of each layer, the second makes up the rest: the smaller, the larger the file;
    null makes the two as alike as can be."""
    decompose_both: bool = False
    """The first matrix is of a low rank, too, where that makes it smaller."""

    def shapes(self, weight: Shape) -> Shapes:
        """A convolution's kernel belongs to the second matrix, and does not count for its longer side."""
        rank = self.rank_of(weight)
        (out1, out2), (in1, in2) = two_factors(weight[0], self.factor), two_factors(weight[1], self.factor)
        return {
            **_matrix("lokr_w1", (out1, in1), rank if self.decompose_both else None),
            **_matrix("lokr_w2", (out2, in2, *weight[2:]), rank),
        }

    def scale_of(self, weight: Shape) -> float:
        # every reader takes 1 where both are whole, for then the file tells no rank to divide alpha by
        return 1.0 if _whole(self.shapes(weight)) else super().scale_of(weight)

    def idle(self, weights: Collection[Shape]) -> Sequence[str]:
        lines, layers = [], [self.shapes(weight) for weight in weights]
        if "alpha" in self.model_fields_set and self.alpha is not None and all(map(_whole, layers)):
            lines.append("alpha: has no effect: with this rank and factor both matrices of every layer are whole")
        if self.decompose_both and all("lokr_w1" in shapes for shapes in layers):
            lines.append("decompose_both: has no effect: no layer's first matrix is longer than twice the rank")
        return lines

    def settings(self) -> Mapping[str, Any]:
        return {**super().settings(), "factor": self.factor or -1, "decompose_both": self.decompose_both}

    def initial_values(self, shapes: Shapes, layer: str, draws: Draws) -> Mapping[str, Tensor]:
        """As LyCORIS begins (its modules/lokr.py): the second matrix is 0, the first as a fresh layer is."""
        import numpy as np
        import torch

        values = {}
        for leaf, shape in shapes.items():
            bound = (
                0.0 if leaf in ("lokr_w2", "lokr_w2_b") else prod(shape[1:]) ** -0.5
            )  # kaiming_uniform with a = sqrt(5)
            drawn = draws.generator("lokr_init", f"{layer}.{leaf}").uniform(-bound, bound, shape)
            values[leaf] = torch.from_numpy(drawn.astype(np.float32))
        return values


def two_factors(size: int, largest: int | None) -> tuple[int, int]:
    """A size as a product of two whole numbers, the smaller one first, as LyCORIS takes it apart.

    Args:
        largest: of the smaller one; where it divides the size it is one of the two. None has no end.
    """
    if largest is not None and size % largest == 0:
        return min(largest, size // largest), max(largest, size // largest)
    end = min(largest or size, int(size**0.5))
    first = max(number for number in range(1, end + 1) if size % number == 0)
    return first, size // first


def _matrix(name: str, shape: Shape, rank: int | None) -> Shapes:
    if rank is None or rank >= max(shape[:2]) / 2:
        return {name: shape}
    return {f"{name}_a": (shape[0], rank), f"{name}_b": (rank, prod(shape[1:]))}


def _whole(shapes: Shapes) -> bool:
    return "lokr_w1" in shapes and "lokr_w2" in shapes
