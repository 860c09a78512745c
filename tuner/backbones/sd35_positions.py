"""SD3.5's table of positions: another crop of it in training, and a longer one that keeps the old one bit for bit."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

CLOSE = 2e-2
"""How far a table may be from the sinusoids that continue it: tables are stored in as few as 8 significant bits."""


@contextmanager
def anywhere(transformer: nn.Module, seed: int) -> Iterator[None]:
    """Within it pictures lie at a place of the table that the seed and their size determine, all places as likely.

    A picture of few patches otherwise only ever meets the middle of the table, and the rest is never trained.
    """
    import numpy as np

    embed: Any = transformer.pos_embed

    def cropped(height: int, width: int) -> Tensor:
        """(1, rows x columns, D), as the module's own method, for latents of this size."""
        rows, columns = height // embed.patch_size, width // embed.patch_size
        most = embed.pos_embed_max_size
        rng = np.random.default_rng(seed)
        top, left = rng.integers(most - rows + 1), rng.integers(most - columns + 1)
        table = embed.pos_embed.reshape(1, most, most, -1)
        return table[:, top : top + rows, left : left + columns].flatten(1, 2)

    embed.cropped_pos_embed = cropped
    try:
        yield
    finally:
        del embed.cropped_pos_embed


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
