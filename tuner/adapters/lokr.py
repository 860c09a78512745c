"""Low-rank Kronecker product (LyCORIS), through peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from .injected import Injected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from ..draws import Draws
    from .injected import Shapes


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

    def shapes(self, rows: int, columns: int) -> Shapes:
        (out1, out2), (in1, in2) = two_factors(rows, self.factor), two_factors(columns, self.factor)
        return {
            **_matrix("lokr_w1", out1, in1, self.rank if self.decompose_both else None),
            **_matrix("lokr_w2", out2, in2, self.rank),
        }

    def scale_of(self, shapes: Shapes) -> float:
        # every reader takes 1 where both are whole, for then the file tells no rank to divide alpha by
        return 1.0 if _whole(shapes) else super().scale_of(shapes)

    def idle(self, layers: Sequence[Shapes]) -> Sequence[str]:
        lines = []
        if "alpha" in self.model_fields_set and self.alpha is not None and all(map(_whole, layers)):
            lines.append("alpha: has no effect: with this rank and factor both matrices of every layer are whole")
        if self.decompose_both and all("lokr_w1" in shapes for shapes in layers):
            lines.append("decompose_both: has no effect: no layer's first matrix is longer than twice the rank")
        return lines

    def settings(self) -> Mapping[str, Any]:
        return {"factor": self.factor or -1, "decompose_both": self.decompose_both}

    def initial_values(self, shapes: Shapes, layer: str, draws: Draws) -> Mapping[str, Tensor]:
        """As LyCORIS begins (its modules/lokr.py): the second matrix is 0, the first as a fresh layer is."""
        import numpy as np
        import torch

        values = {}
        for leaf, shape in shapes.items():
            bound = 0.0 if leaf in ("lokr_w2", "lokr_w2_b") else shape[1] ** -0.5  # kaiming_uniform with a = sqrt(5)
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


def _matrix(name: str, rows: int, columns: int, rank: int | None) -> Shapes:
    if rank is None or rank >= max(rows, columns) / 2:
        return {name: (rows, columns)}
    return {f"{name}_a": (rows, rank), f"{name}_b": (rank, columns)}


def _whole(shapes: Shapes) -> bool:
    return "lokr_w1" in shapes and "lokr_w2" in shapes
