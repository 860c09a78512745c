"""Low-rank updates put together and taken apart: several layers in one of three times the rank, and back, exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from .deltas import Delta

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor


Axis = Literal["output", "input"]
Style = Literal["diffusers", "kohya"]
PEFT_NORMS = "lora_magnitude_vector"
"""peft's name of a DoRA's norms."""


@dataclass(frozen=True, slots=True)
class Update(Delta):
    """What changes one layer's weight W: scale * up @ down is added, and a DoRA then sets the sum's norms."""

    component: str
    """diffusers' name of the model."""
    layer: str
    """Name of the layer as diffusers' files spell it."""
    down: Tensor
    """(rank, in), or (rank, in, height, width) of a convolution."""
    up: Tensor
    """(out, rank), or (out, rank, 1, 1)."""
    scale: float = 1.0
    """alpha / rank."""
    magnitude: Tensor | None = None
    """Norms of a DoRA, (out,) or (in,); None where it is none."""
    axis: Axis = "output"
    """Whether these are of the outputs (a weight's rows) or of the inputs."""

    def added(self, weight: Tensor) -> Tensor:
        delta = self.scale * (self.up.float().flatten(1) @ self.down.float().flatten(1))
        if delta.numel() != weight.numel() or delta.shape[0] != weight.shape[0]:
            raise ValueError(f"an update of {tuple(delta.shape)} does not fit a weight of {tuple(weight.shape)}")
        delta = delta.reshape(weight.shape)
        if self.magnitude is None:
            return delta
        base = weight.float()
        whole, along = base + delta, (base if self.axis == "output" else base.transpose(0, 1)).shape[0]
        if len(self.magnitude) != along:
            raise ValueError(f"{len(self.magnitude)} norms do not fit the {along} {self.axis}s of the weight")
        rows = whole if self.axis == "output" else whole.transpose(0, 1)
        share = self.magnitude.float().to(whole.device) / rows.flatten(1).norm(dim=1)
        ones = [1] * (whole.ndim - 1)
        return whole * share.view(-1, *ones).transpose(0, 0 if self.axis == "output" else 1) - base

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
        if _norms(self) != _norms(other):
            return float("inf")
        down, up = self.down.double().flatten(1), self.up.double().flatten(1)
        x = torch.from_numpy(Draws(0).normal((down.shape[1],), "convert", self.component, self.layer)).double()
        want = self.scale * (up @ (down @ x))
        size = abs(self.scale) * (up.abs() @ (down.abs() @ x.abs()))
        gap = (other.scale * (other.up.double().flatten(1) @ (other.down.double().flatten(1) @ x)) - want).abs()
        return None if bool((gap <= tolerance * size).all()) else float(gap.max())


def named_norms(norms: Tensor, axis: Axis, down: Tensor, style: Style) -> tuple[str, Tensor]:
    """What a file calls a DoRA's norms of a layer, and their shape in it.

    Norms of the outputs are peft's `lora_magnitude_vector` under diffusers' keys, with `.weight` behind: without it, as
    peft itself saves them, diffusers 0.42.1 loads a UNet's and passes over a text encoder's. Else they are
    `dora_scale`, whose shape says which axis they are of.
    """
    ones = [1] * (down.ndim - 2)
    if style == "diffusers" and axis == "output":
        return f"{PEFT_NORMS}.weight", norms.reshape(1, -1, *ones) if ones else norms.reshape(-1)
    return "dora_scale", norms.reshape((-1, 1, *ones) if axis == "output" else (1, -1, *ones))


def _norms(update: Update) -> tuple[str, list[float]] | None:
    return None if update.magnitude is None else (update.axis, update.magnitude.double().tolist())


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


def unpadded(update: Update, rank: int) -> Update:
    """The same update at a smaller rank, where what is beyond it is zero; else the update as it is."""
    down, up = update.down, update.up
    if down.shape[0] <= rank or bool(down[rank:].any()) or bool(up[:, rank:].any()):
        return update
    return replace(update, down=down[:rank], up=up[:, :rank], scale=update.scale)


def halves_swapped(update: Update) -> Update:
    """The update with the two halves of its rows the other way round."""
    import torch

    def swapped(rows: Tensor) -> Tensor:
        first, second = rows.chunk(2, dim=0)
        return torch.cat([second, first])

    norms = update.magnitude
    if norms is not None and update.axis == "output":
        norms = swapped(norms)
    return replace(update, up=swapped(update.up), magnitude=norms)


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    from functools import reduce

    import torch

    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
