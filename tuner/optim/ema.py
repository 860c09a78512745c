"""An exponential moving average of the trained weights, beside the raw ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .shown import Shown

if TYPE_CHECKING:
    from torch import Tensor


def _wide(tensor: Tensor) -> Tensor:
    """A copy in at least float32: an average in bfloat16 would never move."""
    import torch

    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


class Average(Shown):
    """average <- decay x average + (1 - decay) x weights, every `every` steps, from the first on; no warm-up.

    Args:
        live: the trained tensors by name; the average starts as a copy of them.
    """

    name = "ema"
    words = "the averaged weights (EMA)"

    def __init__(self, live: Mapping[str, Tensor], *, decay: float, every: int) -> None:
        super().__init__(live)
        self.decay, self.every = decay, every
        self._tensors = {name: _wide(tensor) for name, tensor in live.items()}

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self._tensors

    def state(self) -> Mapping[str, Tensor]:
        return dict(self.tensors)

    def update(self, step: int, found: Tensor) -> None:
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
