"""Low-rank updates put together and taken apart: several layers in one of three times the rank, and back, exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .deltas import Delta

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Update(Delta):
    """What is added to one layer's weight: scale * up @ down."""

    component: str
    """diffusers' name of the model."""
    layer: str
    """Name of the layer as diffusers' files spell it."""
    down: Tensor
    """(rank, in)."""
    up: Tensor
    """(out, rank)."""
    scale: float = 1.0
    """alpha / rank."""

    def added(self, weight: Tensor) -> Tensor:
        delta = self.scale * (self.up.float().flatten(1) @ self.down.float().flatten(1))
        if delta.numel() != weight.numel() or delta.shape[0] != weight.shape[0]:
            raise ValueError(f"an update of {tuple(delta.shape)} does not fit a weight of {tuple(weight.shape)}")
        return delta.reshape(weight.shape)

    def differs(self, other: Update, tolerance: float) -> float | None:
        """The largest difference of the two on a drawn input, where one is beyond the tolerance.

        Args:
            other: an update of a layer of the same size.
            tolerance: relative to scale * |up| |down| |x|, which rounding is relative to.
        """
        import torch

        from ..draws import Draws

        if other.down.shape[1:] != self.down.shape[1:] or other.up.shape[0] != self.up.shape[0]:
            return float("inf")
        down, up = self.down.double().flatten(1), self.up.double().flatten(1)
        x = torch.from_numpy(Draws(0).normal((down.shape[1],), "convert", self.component, self.layer)).double()
        want = self.scale * (up @ (down @ x))
        size = abs(self.scale) * (up.abs() @ (down.abs() @ x.abs()))
        gap = (other.scale * (other.up.double().flatten(1) @ (other.down.double().flatten(1) @ x)) - want).abs()
        return None if bool((gap <= tolerance * size).all()) else float(gap.max())


def fuse(parts: Sequence[Update | None]) -> tuple[Tensor, Tensor, float]:
    """One update of the layers stacked, from one of each.

    With n parts of at most rank r, down is (n r, in) with the parts' one above the other, and up (n out, n r) with the
    parts' along its diagonal, so that no part touches another; one that is not trained, or has a smaller rank, is
    filled with zeros.

    Args:
        parts: in order; None where one is not trained. At least one is.

    Returns: down, up and scale.
    """
    import torch

    known = [part for part in parts if part is not None]
    if len(parts) == 1:
        return known[0].down, known[0].up, known[0].scale
    scale = known[0].scale if len({part.scale for part in known}) == 1 else 1.0
    ups = [part.up if part.scale == scale else scaled(part.up, part.scale) for part in known]
    rank, rows = max(part.down.shape[0] for part in known), known[0].up.shape[0]
    down = torch.zeros(len(parts) * rank, known[0].down.shape[1], dtype=_widest([part.down for part in known]))
    up = torch.zeros(len(parts) * rows, len(parts) * rank, dtype=_widest(ups))
    for number, part in enumerate(parts):
        if part is not None:
            own, start = part.down.shape[0], number * rank
            down[start : start + own] = part.down
            up[number * rows : (number + 1) * rows, start : start + own] = ups[known.index(part)]
    return down, up, scale


def split(down: Tensor, up: Tensor, count: int) -> list[tuple[Tensor, Tensor] | None]:
    """The factors of each of `count` layers that are stacked in one; inverse of `fuse`.

    Where up is no block diagonal, the layers share one down and each keeps the whole rank: as exact, but larger.

    Returns: in order; None for a part that `fuse` filled with zeros.
    """
    if count == 1:
        return [(down, up)]
    rows, rank = up.shape[0] // count, up.shape[1] // count
    if rows * count != up.shape[0]:
        raise ValueError(f"{up.shape[0]} rows are not {count} layers of one size")
    blocks = [up[n * rows : (n + 1) * rows] for n in range(count)]
    if rank * count != up.shape[1] or not _diagonal(blocks, rank):
        return [(down.clone(), block.contiguous()) for block in blocks]
    parts = [
        (down[n * rank : (n + 1) * rank].contiguous(), block[:, n * rank : (n + 1) * rank].contiguous())
        for n, block in enumerate(blocks)
    ]
    idle = [not bool(own.any()) and not bool(block.any()) for own, block in parts]
    return [None if gone and not all(idle) else part for part, gone in zip(parts, idle, strict=True)]


def _diagonal(blocks: Sequence[Tensor], rank: int) -> bool:
    return not any(
        bool(block[:, : n * rank].any()) or bool(block[:, (n + 1) * rank :].any()) for n, block in enumerate(blocks)
    )


def scaled(up: Tensor, scale: float) -> Tensor:
    """`up` times the scale: in its own dtype where nothing is rounded there, else in float32."""
    wide = up.float() * scale
    narrow = wide.to(up.dtype)
    return narrow if bool((narrow.float() == wide).all()) else wide


def padded(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The same update at a larger rank, with zeros."""
    from torch.nn.functional import pad

    more = rank - down.shape[0]
    rows = [0, 0] * (down.ndim - 1) + [0, more]
    columns = [0, 0] * (up.ndim - 2) + [0, more]
    return (pad(down, rows), pad(up, columns)) if more else (down, up)


def halves_swapped(update: Update) -> Update:
    """The update with the two halves of its rows the other way round."""
    import torch

    first, second = update.up.chunk(2, dim=0)
    return replace(update, up=torch.cat([second, first]))


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    from functools import reduce

    import torch

    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
