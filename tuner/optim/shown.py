"""The weights that samples, validation and files have, where these are other ones than those that train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Shown(ABC):
    """Weights beside the trained ones, by name.

    Args:
        live: the trained tensors by name.
    """

    name: ClassVar[str]
    """Of this kind of weights, in what a run writes down."""
    words: ClassVar[str]
    """The same for people."""

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        self.live = dict(live)

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """The weights, at least float32."""

    def update(self, step: int, found: Tensor) -> None:
        """After step number `step` (from 0). A step that moved nothing (`found` is 1) moves none of these either."""

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold of them; empty where they follow from the rest of it."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within it the model has these weights; afterwards the raw ones are back, bit for bit."""
        import torch

        # In main memory: a whole model and its average leave no room for another copy on a GPU.
        raw = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.live.items()}
        shown = self.tensors
        with torch.no_grad():
            try:
                for name, tensor in self.live.items():
                    tensor.detach().copy_(shown[name])
                yield
            finally:
                for name, tensor in self.live.items():
                    tensor.detach().copy_(raw[name])
