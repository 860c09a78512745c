"""Activations of a UNet: bytes a latent cell and channel of its residual and transformer blocks."""

from __future__ import annotations

from dataclasses import dataclass
from operator import mul
from types import MappingProxyType
from typing import TYPE_CHECKING

from .activations import Activations, Beside, distinct_inputs

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

    resnets: tuple[tuple[str, int, int, int], ...]
    """(name, level, channels in, channels out) of each residual block; level 0 has the latents' own cells."""
    transformers: tuple[tuple[str, int, int], ...]
    """(name, level, channels) of each transformer."""
    text_tokens: int
    cell_px: int
    """Pixels of a latent cell, along one side."""
    linears: Mapping[str, tuple[int, int]]
    """(in, out) features by name."""
    convs: Mapping[str, tuple[int, int, int]]
    """(in, out, side of the kernel) of the convolutions, by name."""

    def training(
        self,
        area: int,
        itemsize: int,
        layers: Collection[str] | None,
        *,
        checkpointing: bool = False,
        beside: Beside = MappingProxyType({}),
    ) -> float:
        saved = {name: self._frozen(level, width, area, itemsize) for name, level, width in self.transformers}
        trained = self.linears if layers is None else [name for name in layers if name in self.linears]
        for layer in distinct_inputs(trained, itemsize):
            home = _home(layer)
            if home in saved:
                saved[home] += self._values(layer, area)[0] * itemsize
        blocks = {
            name: self._cells(level, area) * self._resnet(source, width, itemsize)
            for name, level, source, width in self.resnets
        }
        between = 0.0
        for layer, each in beside.items():
            home, more = _home(layer), sum(map(mul, each, self._values(layer, area)))
            # the projections around a transformer's block are not computed again
            own = saved if home in saved and layer in self.linears else blocks if home in blocks else None
            if own is None:
                between += more
            else:
                own[home] += more
        in_flight = {
            name: self._cells(level, area) * width * IN_FLIGHT[itemsize] for name, level, width in self.transformers
        }
        if not checkpointing:
            return sum(blocks.values()) + sum(saved.values()) + max(in_flight.values()) + between
        kept = sum(self._cells(level, area) * source * itemsize for _, level, source, _ in self.resnets) + between
        kept += sum(self._cells(level, area) * width * KEPT[itemsize] for _, level, width in self.transformers)
        return kept + max(*(saved[name] + in_flight[name] for name in saved), *blocks.values())

    def forward(self, area: int, itemsize: int) -> float:
        return self._cells(0, area) * self.resnets[0][3] * PASSING[itemsize]

    def _cells(self, level: int, area: int) -> float:
        return area / self.cell_px**2 / 4**level

    def _values(self, layer: str, area: int) -> tuple[float, float]:
        """How many go into a layer and come out of it."""
        if layer in self.linears:
            source, width = self.linears[layer]
            level = next((level for name, level, _ in self.transformers if name == _home(layer)), 0)
            text = layer.endswith(("attn2.to_k", "attn2.to_v"))
            tokens = self.text_tokens if text else 1.0 if "emb" in layer else self._cells(level, area)
            return tokens * source, tokens * width
        source, width, _ = self.convs[layer]
        part = layer.rpartition(".")[0]
        levels = {name: level for name, level, *_ in (*self.resnets, *self.transformers)}
        level = levels.get(part)
        if level is not None:
            return self._cells(level, area) * source, self._cells(level, area) * width
        block = ".".join(layer.split(".")[:2])  # between two levels, behind the blocks of one
        level = max(own for name, own in levels.items() if name.startswith(f"{block}."))
        before, behind = (level, level + 1) if block.startswith("down") else (level - 1, level - 1)
        return self._cells(before, area) * source, self._cells(behind, area) * width

    @staticmethod
    def _resnet(source: int, width: int, itemsize: int) -> float:
        return RESNET_IN[itemsize] * source + RESNET_OUT[itemsize] * width

    def _frozen(self, level: int, width: int, area: int, itemsize: int) -> float:
        return width * (self._cells(level, area) * TRANSFORMER[itemsize] + self.text_tokens * TEXT[itemsize])


def _home(layer: str) -> str:
    """The transformer or residual block that a layer lies in."""
    return ".".join(layer.split(".")[: 3 if layer.startswith("mid_block") else 4])
