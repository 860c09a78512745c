"""Optimizers as parts: hyperparameters here, the arithmetic in torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ..parts import Choice

if TYPE_CHECKING:
    import torch

    from ..types import ParamGroup


class Optimizer(Choice):
    """How a gradient becomes an update."""

    bytes_a_parameter: ClassVar[float]
    """What it remembers of each trained number."""

    @abstractmethod
    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        """One torch group a ParamGroup, in order. It must honour a `found_inf` tensor as torch's fused ones do.

        Args:
            groups: what trains.
            lr: the run's peak learning rate.
            seed: keys what the optimizer draws.
            in_backward: update each parameter when its gradient is there; see `one_by_one.OneByOne`.
        """


def described(groups: Sequence[ParamGroup], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The groups as torch's optimizers take them."""
    return [
        {
            "params": list(group.params.values()),
            "lr": group.peak(lr),
            "weight_decay": weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group in groups
    ]


class AdamW(Optimizer, name="adamw"):
    """AdamW (Loshchilov & Hutter 2019), torch's fused kernel where weights are fp32."""

    bytes_a_parameter = 8

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0, le=1)
    """Added to the denominator."""
    weight_decay: float = Field(default=1e-2, ge=0, le=10)
    """Decoupled weight decay, times the learning rate."""

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        import torch

        told = described(groups, lr, self.weight_decay)
        narrow = any(p.dtype != torch.float32 for group in groups for p in group.params.values())
        if narrow or in_backward:
            from .one_by_one import SteadyAdamW

            return SteadyAdamW(told, betas=self.betas, eps=self.eps, seed=seed, in_backward=in_backward)
        return torch.optim.AdamW(told, lr=lr, betas=self.betas, eps=self.eps, fused=True)


class AdamW8bit(AdamW, name="adamw8bit"):
    """AdamW that remembers its moments in 8 bits (Dettmers et al. 2022); needs bitsandbytes (extra `cuda`)."""

    bytes_a_parameter = 2.1

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        from .eight_bit import EightBitAdamW

        told = described(groups, lr, self.weight_decay)
        return EightBitAdamW(told, betas=self.betas, eps=self.eps, seed=seed, in_backward=in_backward)


class Adafactor(Optimizer, name="adafactor"):
    """Adafactor (Shazeer & Stern 2018): remembers a row and a column of each matrix, so next to nothing."""

    bytes_a_parameter = 0.05

    beta2_decay: float = Field(default=-0.8, ge=-10, le=0)
    """The second moment forgets as step to this power."""
    clip: float = Field(default=1.0, ge=1, le=1000)
    """Largest root mean square of an update, before the learning rate."""
    relative: bool = False
    """Learning rate relative to the root mean square of each weight, as published; take about 1e-3 then."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Decoupled weight decay, times the learning rate."""

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        from .adafactor import AdafactorSteps

        return AdafactorSteps(
            described(groups, lr, self.weight_decay),
            beta2_decay=self.beta2_decay,
            clip=self.clip,
            scaled=self.relative,
            least=1e-3,
            seed=seed,
            in_backward=in_backward,
        )
