"""What the denoiser learns to predict, and at which noise levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..parts import Choice

if TYPE_CHECKING:
    import torch

    from ..types import Batch, Draw, Noised


class Objective(Choice):
    """Noise levels, corruption, target and weights. A value; `bind` gives the object that computes."""

    @abstractmethod
    def needs(self) -> Mapping[str, Draw]:
        """The random numbers of each example, by purpose. `level` is uniform and says how noisy."""

    @abstractmethod
    def bind(self, scheduler: Mapping[str, Any], device: torch.device) -> BoundObjective:
        """Build the tables once, on the device.

        Args:
            scheduler: the base model's own scheduler configuration (`scheduler_config.json`).

        Raises: RecipeError where a setting contradicts the base model.
        """

    def notes(self, scheduler: Mapping[str, Any]) -> Sequence[str]:
        """What to know of these settings on a base whose scheduler configuration this is."""
        return ()

    def scheduler_changes(self, h: int, w: int) -> Mapping[str, Any]:
        """What a base's scheduler has to be told elsewhere to draw latents (C, h, w) as they were trained."""
        return {}


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Whether a base's scheduler configuration says that the base predicts a velocity along straight paths."""
    return str(scheduler.get("_class_name", "")).startswith("FlowMatch")


class BoundObjective(ABC):
    """An objective with its tables."""

    prediction: str
    """What the denoiser predicts: epsilon, v or velocity."""

    @abstractmethod
    def corrupt(self, batch: Batch) -> Noised:
        """Add the batch's own noise at its own levels. Pure; no host sync."""

    @abstractmethod
    def sampling(self) -> Mapping[str, Any]:
        """What a sampler's scheduler configuration must say to match the training."""

    def sampling_at(self, h: int, w: int) -> Mapping[str, Any]:
        """`sampling` for latents (C, h, w): a rule that goes by size may be more than a configuration can say."""
        return self.sampling()
