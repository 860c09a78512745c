"""Which text encoders a visit does without, each left out by itself (Esser et al. 2024, sec. 5.3.3 and app. B.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..types import Cond, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from ..draws import Draws

LEFT_OUT = -1
"""The token id that fills the row of a text encoder which an example does without."""


@dataclass(frozen=True, slots=True)
class EncoderDropout:
    """Leaves text encoders out of the texts of a batch."""

    share: float
    """Of the visits, for each text encoder."""
    encoders: tuple[str, ...]
    """Their names."""
    without: Callable[[Cond, Mapping[str, Tensor]], Cond]
    """As `DiffusionModel.without`."""

    def __call__(self, text: Cond | Tokens, draws: Draws, ids: Sequence[tuple[str | int, ...]]) -> Cond | Tokens:
        """The texts of a batch, each without the encoders that it loses.

        Embeddings get their zeros here; rows of token ids are filled with LEFT_OUT, and the zeros follow where they
        are encoded.

        Args:
            text: of the batch.
            draws: the run's randomness.
            ids: the key of each example's visit.
        """
        import torch

        lost = {
            name: torch.tensor([draws.uniform("encoder_dropout", name, *key) < self.share for key in ids])
            for name in self.encoders
        }
        if isinstance(text, Cond):
            return self.without(text, lost)
        rows = {
            name: row.masked_fill(lost[name][:, None], LEFT_OUT) if name in lost else row
            for name, row in text.ids.items()
        }
        return Tokens(rows, text.cut)
