"""The finite check and the fp16 loss scale, kept on the device so that no step waits for the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GROWTH, BACKOFF, GROWTH_INTERVAL, FIRST_SCALE = 2.0, 0.5, 2000, 65536.0  # as torch.amp.GradScaler


class Guard:
    """Sees to it that a loss or gradient that is not finite moves nothing.

    Args:
        scaled: whether the loss is scaled (fp16). A scaled gradient that overflows only lowers the scale; it counts as
            a bad step once the scale is down to 1.
    """

    def __init__(self, device: torch.device, *, scaled: bool) -> None:
        import torch

        self.scaled = scaled
        zero = torch.zeros((), device=device)
        self.scale = torch.full((), FIRST_SCALE if scaled else 1.0, device=device)
        self.good = zero.clone()
        """Finite steps since the scale last changed."""
        self.skipped = zero.clone()
        """Steps that moved nothing, ever."""
        self.row = zero.clone()
        """Bad steps in a row, now."""
        self.worst = zero.clone()
        """The longest such row since the last `acknowledge`."""
        self.last_bad = zero - 1
        """The latest bad step; float32, since Apple's GPUs have no float64, holds 16 million exactly."""
        self.found = zero.clone()
        """1 where this step must not move anything."""

    def check(self, loss: Tensor, grads: Sequence[Tensor], step: int) -> Tensor:
        """Unscale the gradients in place and return their norm; sets `found`. No host sync."""
        import torch

        if self.scaled:
            torch._foreach_mul_(list(grads), 1.0 / self.scale)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.nn.utils.get_total_norm(grads) if grads else self.found.new_zeros(())
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        found = (~finite).to(self.found.dtype)
        self.found.copy_(found)
        bad = found * (~torch.isfinite(loss) | (self.scale <= 1)).to(found.dtype) if self.scaled else found
        self.skipped += found
        self.row.copy_((self.row + 1) * bad)
        torch.maximum(self.worst, self.row, out=self.worst)
        self.last_bad.copy_(torch.where(bad > 0, torch.full_like(self.last_bad, step), self.last_bad))
        if self.scaled:
            self.good.copy_((self.good + 1) * finite)
            grow = self.good >= GROWTH_INTERVAL
            factor = torch.where(finite, torch.where(grow, GROWTH, 1.0), BACKOFF)
            self.scale.copy_((self.scale * factor).clamp(min=1.0))
            self.good.copy_(self.good * ~grow)
        return norm

    def acknowledge(self) -> None:
        """Forget the longest row, once it was reported."""
        self.worst.copy_(self.row)

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("scale", "good", "skipped", "row", "worst", "last_bad")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
