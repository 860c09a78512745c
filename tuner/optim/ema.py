"""An exponential moving average of the trained weights, beside the raw ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def _wide(tensor: Tensor) -> Tensor:
    """A copy in at least float32: an average in bfloat16 would never move."""
    import torch

    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


class Average:
    """average <- decay x average + (1 - decay) x weights, every `every` steps, from the first on; no warm-up.

    Args:
        live: the trained tensors by name; the average starts as a copy of them.
    """

    def __init__(self, live: Mapping[str, Tensor], *, decay: float, every: int) -> None:
        self.live, self.decay, self.every = dict(live), decay, every
        self.tensors = {name: _wide(tensor) for name, tensor in live.items()}

    def update(self, step: int, found: Tensor) -> None:
        """After step number `step` (from 0). A step that moved nothing (`found` is 1) moves no average."""
        import torch

        if (step + 1) % self.every:
            return
        away = torch._foreach_sub([p.detach() for p in self.live.values()], list(self.tensors.values()))  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(away, (1.0 - self.decay) * (1.0 - found))  # pyright: ignore[reportPrivateImportUsage]
        # 0 x inf is nan: where the weights are finite, as they always are here, a skipped step adds exact zeros
        torch._foreach_add_(list(self.tensors.values()), away)  # pyright: ignore[reportPrivateImportUsage]

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within it the model has the averaged weights; afterwards the raw ones are back, bit for bit."""
        import torch

        # In main memory: a whole model and its average leave no room for another copy on a GPU.
        raw = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.live.items()}
        with torch.no_grad():
            for name, tensor in self.live.items():
                tensor.detach().copy_(self.tensors[name])
            try:
                yield
            finally:
                for name, tensor in self.live.items():
                    tensor.detach().copy_(raw[name])
