"""Optimizers as parts: hyperparameters here, the arithmetic in torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..parts import Choice

if TYPE_CHECKING:
    import torch

    from ..types import ParamGroup


class Optimizer(Choice):
    """How a gradient becomes an update."""

    @abstractmethod
    def build(self, groups: Sequence[ParamGroup], lr: float) -> torch.optim.Optimizer:
        """One torch group a ParamGroup, in order. It must honour a `found_inf` tensor as torch's fused ones do."""


class AdamW(Optimizer, name="adamw"):
    """AdamW (Loshchilov & Hutter 2019), torch's fused kernel."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0, le=1)
    """Added to the denominator."""
    weight_decay: float = Field(default=1e-2, ge=0, le=10)
    """Decoupled weight decay, times the learning rate."""

    def build(self, groups: Sequence[ParamGroup], lr: float) -> torch.optim.Optimizer:
        import torch

        described: list[dict[str, Any]] = [
            {
                "params": list(group.params.values()),
                "lr": group.lr or lr,
                "weight_decay": self.weight_decay if group.weight_decay is None else group.weight_decay,
            }
            for group in groups
        ]
        return torch.optim.AdamW(described, lr=lr, betas=self.betas, eps=self.eps, fused=True)
