"""Activations of a UNet: bytes a latent cell and channel of its residual and transformer blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .activations import NOTHING, Activations, distinct_inputs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

RESNET_IN = {2: 10.0, 4: 8.0}
"""What a residual block saves of a cell and channel that comes in; by bytes of a value. Trained or not."""
RESNET_OUT = {2: 12.0, 4: 16.0}
"""The same of one that goes out."""
TRANSFORMER = {2: 58.5, 4: 96.5}
"""What a transformer block saves of a cell and channel, its weights frozen."""
TEXT = {2: 4.0, 4: 8.0}
"""Keys and values of a token of the text."""
KEPT = {2: 11.5, 4: 18.4}
"""What gradient checkpointing keeps around a transformer block; of a residual block it keeps the input."""
IN_FLIGHT = {2: 4.0, 4: 26.0}
"""Gradients on their way through a transformer block."""
PASSING = {2: 52.0, 4: 106.0}
"""The most that is held at a time without gradients, a cell and channel of the outermost level."""


@dataclass(frozen=True, slots=True)
class UNetActivations(Activations):
    """See the base class."""

    resnets: tuple[tuple[int, int, int], ...]
    """(level, channels in, channels out) of each residual block; level 0 has the latents' own cells."""
    transformers: tuple[tuple[str, int, int], ...]
    """(name, level, channels) of each transformer."""
    text_tokens: int
    cell_px: int
    """Pixels of a latent cell, along one side."""
    linears: Mapping[str, tuple[int, int]]
    """(in, out) features by name."""

    def training(
        self,
        area: int,
        itemsize: int,
        layers: Collection[str] | None,
        *,
        besides: Mapping[str, float] = NOTHING,
        checkpointing: bool = False,
    ) -> float:
        saved = {name: self._frozen(level, width, area, itemsize) for name, level, width in self.transformers}
        levels = {name: level for name, level, _ in self.transformers}
        trained = distinct_inputs(self.linears if layers is None else layers, itemsize)
        kept_a_token = [*((layer, self.linears[layer][0] * itemsize) for layer in trained), *besides.items()]
        for layer, size in kept_a_token:
            home = ".".join(layer.split(".")[: 4 if not layer.startswith("mid_block") else 3])
            if home in saved:
                text = layer.endswith(("attn2.to_k", "attn2.to_v"))
                saved[home] += size * (self.text_tokens if text else self._cells(levels[home], area))
        in_flight = {
            name: self._cells(level, area) * width * IN_FLIGHT[itemsize] for name, level, width in self.transformers
        }
        if not checkpointing:
            held = sum(self._cells(n, area) * self._resnet(i, o, itemsize) for n, i, o in self.resnets)
            return held + sum(saved.values()) + max(in_flight.values())
        kept = sum(self._cells(level, area) * source * itemsize for level, source, _ in self.resnets)
        kept += sum(self._cells(level, area) * width * KEPT[itemsize] for _, level, width in self.transformers)
        again = [saved[name] + in_flight[name] for name in saved]
        again += [self._cells(n, area) * self._resnet(i, o, itemsize) for n, i, o in self.resnets]
        return kept + max(again)

    def forward(self, area: int, itemsize: int) -> float:
        return self._cells(0, area) * self.resnets[0][2] * PASSING[itemsize]

    def _cells(self, level: int, area: int) -> float:
        return area / self.cell_px**2 / 4**level

    @staticmethod
    def _resnet(source: int, width: int, itemsize: int) -> float:
        return RESNET_IN[itemsize] * source + RESNET_OUT[itemsize] * width

    def _frozen(self, level: int, width: int, area: int, itemsize: int) -> float:
        return width * (self._cells(level, area) * TRANSFORMER[itemsize] + self.text_tokens * TEXT[itemsize])
