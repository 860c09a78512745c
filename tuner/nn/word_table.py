"""A text encoder's table of word vectors with a few trainable rows beside it; the table itself never moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class WordTable(nn.Module):
    """Stands where the encoder's own embedding stood (Gal et al. 2022, sec. 4.2).

    The optimizer sees the new rows alone: no moment, no weight decay and no rounding can reach another row.

    Args:
        table: the encoder's own embedding, or another WordTable.
        ids: token ids of the new words, one a row.
        start: (n, D) float32, what the rows begin as.
        length: the length that each row is held at, by reading it scaled (as weight normalisation does, Salimans &
            Kingma 2016); None lets it grow.
    """

    ids: Tensor
    start: Tensor

    def __init__(self, table: nn.Module, ids: Sequence[int], start: Tensor, *, length: float | None = None) -> None:
        super().__init__()
        self.table, self.length, self.on = table, length, True
        self.vectors = nn.Parameter(start.detach().clone().float())
        device = start.device
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.int64, device=device), persistent=False)
        self.register_buffer("start", self.read(self.vectors).detach().clone(), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The frozen table, which transformers asks for its device and type."""
        return self.table.weight  # type: ignore[return-value]

    def read(self, vectors: Tensor) -> Tensor:
        """The rows that these parameters stand for, (n, D) float32."""
        if self.length is None:
            return vectors
        return vectors * (self.length / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, D) in the table's own type."""
        same = ids[..., None] == self.ids
        new = same.any(-1)
        known = self.table(ids.masked_fill(new, 0))  # the table may have no row of that number
        rows = (self.read(self.vectors) if self.on else self.start).to(known.dtype)
        return torch.where(new[..., None], F.embedding(same.int().argmax(-1), rows), known)
