"""Low-rank Hadamard product (Hyeon-Woo et al. 2022, "FedPara"; LyCORIS), through peft."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from .injected import Injected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ..draws import Draws
    from .injected import Shape, Shapes

DEVIATION = {"hada_w1_a": 0.1, "hada_w1_b": 1.0, "hada_w2_a": 0.0, "hada_w2_b": 1.0}
"""Of the initial values, as LyCORIS begins (its modules/loha.py): the second product is 0, the first is not."""


class LoHa(Injected, name="loha"):
    """Two low-rank products multiplied entry by entry: W + alpha / rank * (B1 A1) * (B2 A2), a rank of up to rank^2."""

    method = "loha"
    rehearsal = {"train.steps": 250, "train.lr": 2e-3}

    def shapes(self, weight: Shape) -> Shapes:
        rank = self.rank_of(weight)
        outer, inner = (weight[0], rank), (rank, prod(weight[1:]))
        return {"hada_w1_a": outer, "hada_w1_b": inner, "hada_w2_a": outer, "hada_w2_b": inner}

    def initial_values(self, shapes: Shapes, layer: str, draws: Draws) -> Mapping[str, Tensor]:
        import torch

        return {
            leaf: DEVIATION[leaf] * torch.from_numpy(draws.normal(shape, "loha_init", f"{layer}.{leaf}"))
            for leaf, shape in shapes.items()
        }
