"""What each noise level of a flow weighs in the loss (Esser et al. 2024, sec. 3.1)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field

from ..parts import Choice

if TYPE_CHECKING:
    from torch import Tensor


class Weighting(Choice):
    """Weight of the squared velocity error at a noise level."""

    @abstractmethod
    def weight(self, sigma: Tensor) -> Tensor:
        """(B,) levels as the denoiser sees them, so after the shift -> (B,) weights."""


class NoWeighting(Weighting, name="none"):
    """All levels alike: how often a level is drawn says what it counts."""

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma.new_ones(sigma.shape)


class SigmaSqrt(Weighting, name="sigma_sqrt"):
    """1 / sigma^2, far more at low noise; not with logit_normal levels."""

    smallest: float = Field(default=1e-3, gt=0, le=1)
    """Levels below this one weigh as it does: without an end the mean weight of uniform levels would be infinite."""

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma.clamp(min=self.smallest) ** -2


class CosMapWeighting(Weighting, name="cosmap"):
    """2 / (pi - 2 pi sigma + 2 pi sigma^2): on uniform unshifted levels it counts as cosmap levels would."""

    def weight(self, sigma: Tensor) -> Tensor:
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))


class X0(Weighting, name="x0"):
    """The squared error of x_t - sigma velocity against x_0, as preconditioned outputs have it: sigma^2."""

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma**2
