"""A longer table of positions for SD3.5's transformer: what lay within the old one is placed as before, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

CLOSE = 2e-2
"""How far a table may be from the sinusoids that continue it: tables are stored in as few as 8 significant bits."""


def extend(transformer: nn.Module, size: int) -> None:
    """Give the transformer positions for `size` patches a side, and write the new size into its configuration.

    The table is cut around its middle (Esser et al. 2024, sec. 5.3.2), so the old one stays in the middle of the new
    one, whose size is made even with it. A table that is long enough stays as it is.

    Raises: DataError where the old table is none of sinusoids of evenly spaced places, which alone can be continued.
    """
    import torch

    embed: Any = transformer.pos_embed
    old = embed.pos_embed_max_size
    if size <= old:
        return
    margin = -(-(size - old) // 2)
    table = embed.pos_embed.reshape(old, old, -1)
    start, step = _places(table)
    kept = _sinusoids(start + step * torch.arange(old, dtype=torch.float64), table.shape[-1])
    if not torch.allclose(table.cpu().double(), kept, atol=CLOSE, rtol=0):
        raise DataError(
            "the transformer's table of positions is not one of sinusoids, so it cannot be continued",
            "leave out max_side_px, and keep to the sides that the model has positions for",
        )
    places = start + step * (torch.arange(old + 2 * margin, dtype=torch.float64) - margin)
    new = _sinusoids(places, table.shape[-1]).to(table.device, table.dtype)
    new[margin : margin + old, margin : margin + old] = table
    embed.pos_embed = new.reshape(1, -1, new.shape[-1])
    embed.pos_embed_max_size = len(new)
    transformer.register_to_config(pos_embed_max_size=len(new))  # type: ignore[operator]


def _places(table: Tensor) -> tuple[float, float]:
    """First place and distance of those that a table's fastest sinusoid, of frequency 1, runs through."""
    import numpy as np

    quarter = table.shape[-1] // 4  # sines, then cosines, of the column; then both of the row
    angles = np.arctan2(table[0, :, 0].cpu().double().numpy(), table[0, :, quarter].cpu().double().numpy())
    step, start = np.polyfit(np.arange(len(angles)), np.unwrap(angles), 1)
    return float(start), float(step)


def _sinusoids(places: Tensor, width: int) -> Tensor:
    """(n,) places along both sides -> (n, n, width) float64, as the published code lays them out."""
    import torch

    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = places[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    count = len(places)
    return torch.cat([line[None].expand(count, -1, -1), line[:, None].expand(-1, count, -1)], dim=2)
