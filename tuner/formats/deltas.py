"""What an adapter file adds to a layer's weight, whatever its factors are called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Delta(ABC):
    """A change of one layer's weight, as a file keeps it."""

    component: str
    """diffusers' name of the model: unet, transformer, text_encoder ..."""
    layer: str
    """Name of the layer as diffusers' files spell it."""

    @abstractmethod
    def added(self, weight: Tensor) -> Tensor:
        """What is added to the layer's weight at strength 1: float32, in the weight's shape.

        Args:
            weight: the base's own; (out, in), or (out, in, height, width) of a convolution.

        Raises: ValueError where the sizes do not fit.
        """
