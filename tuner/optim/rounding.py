"""Stochastic rounding to bfloat16: what is too small for one step is kept in expectation (Gupta et al. 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DROPPED = 0xFFFF
"""The lower half of a float32's bits, which bfloat16 has not."""


def round_stochastically(value: Tensor, generator: torch.Generator) -> Tensor:
    """float32 -> bfloat16: up or down to a neighbour, with a chance that makes the mean exactly the value.

    A finite value that lies between the largest bfloat16 and infinity stays finite; what is not finite stays as it is.
    """
    import torch

    bits = value.contiguous().view(torch.int32)
    noise = torch.randint(0, DROPPED + 1, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    # Adding to the lower half carries into the upper one as often as its share of a step says, for either sign.
    rounded = ((bits + noise) & ~DROPPED).view(torch.float32)
    return torch.where(torch.isfinite(rounded), rounded, value).to(torch.bfloat16)
