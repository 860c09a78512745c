"""Activations of an MMDiT: bytes a token and channel of its blocks (Esser et al. 2024, fig. 2)."""

from __future__ import annotations

from dataclasses import dataclass
from operator import mul
from types import MappingProxyType
from typing import TYPE_CHECKING

from .activations import Activations, Beside, distinct_inputs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

BLOCK = {2: 24.1, 4: 40.2}
"""What a block saves of a token of either stream, its weights frozen; by bytes of a value. That is the input of both
layer norms (in float32), queries, keys, values and output of the attention, and four channels that go into the GELU."""
WITHOUT_OUTPUT = {2: 12.0, 4: 20.0}
"""What of it the text stream of the last block lacks, which ends at the attention: the second norm and the GELU."""
NORMS = {2: 12.1, 4: 8.1}
"""What normalising queries and keys adds, in each attention that has it."""
SECOND = {2: 8.1, 4: 16.1}
"""What the second attention of MMDiT-X adds, a token of the picture."""
MODULATED = {2: 12.0, 4: 16.0}
"""What the products with scale, shift and gate add where the layers that make these train; of the stream's token."""
MODULATED_WITHOUT_OUTPUT = 4.0
"""The same of a text stream that ends at the attention."""
SECOND_MODULATED = {2: 2.0, 4: 4.0}
"""The same of the second attention."""
NORM_WEIGHTS = 8.0
"""What the weights of the norms of queries and keys add where they train."""
IN_FLIGHT = {2: 20.0, 4: 24.0}
"""Gradients on their way through a block that is computed again."""
PASSING = {2: 32.0, 4: 53.0}
"""The most that a block holds at a time without gradients: its wide inner layer and what stands around it."""
AROUND = {2: 20.0, 4: 32.0}
"""What is saved before the first block and behind the last one, a token of the picture; gone when a block is computed
again."""


@dataclass(frozen=True, slots=True)
class MMDiTActivations(Activations):
    """See the base class."""

    width: int
    """Channels of a token."""
    depth: int
    dual: frozenset[int]
    """Blocks with a second attention."""
    normed: bool
    """Whether queries and keys are normalised."""
    text_tokens: int
    """Of both parts of the text; there whether or not an encoder stands behind them."""
    cell_px: int
    """Pixels of a token of the picture, along one side."""
    linears: Mapping[str, tuple[int, int]]
    """(in, out) features by name."""

    def training(
        self,
        area: int,
        itemsize: int,
        layers: Collection[str] | None,
        *,
        checkpointing: bool = False,
        beside: Beside = MappingProxyType({}),
    ) -> float:
        image = area / self.cell_px**2
        saved = [self._frozen(index, image, itemsize, layers) for index in range(self.depth)]
        for name in distinct_inputs(self.linears if layers is None else layers, itemsize):
            block = _block(name)
            if block is not None:
                saved[block] += self._tokens(name, image) * self.linears[name][0] * itemsize
        for name, each in beside.items():
            block = _block(name)
            if block is not None:
                saved[block] += self._tokens(name, image) * sum(map(mul, each, self.linears[name]))
        if not checkpointing:
            return image * self.width * AROUND[itemsize] + sum(saved)
        kept = (image + self.text_tokens) * self.width * itemsize
        in_flight = (image + self.text_tokens) * self.width * IN_FLIGHT[itemsize]
        return max((index + 1) * kept + one + in_flight for index, one in enumerate(saved))

    def forward(self, area: int, itemsize: int) -> float:
        return (area / self.cell_px**2 + self.text_tokens) * self.width * PASSING[itemsize]

    def _frozen(self, index: int, image: float, itemsize: int, layers: Collection[str] | None) -> float:
        """Of one block, without the inputs of its layers that train."""
        trained = self.linears if layers is None else layers
        block = f"transformer_blocks.{index}"
        norms = (NORMS[itemsize] + (NORM_WEIGHTS if layers is None else 0.0)) if self.normed else 0.0
        total = 0.0
        last = index == self.depth - 1
        for tokens, norm, ends in ((image, "norm1", False), (self.text_tokens, "norm1_context", last)):
            modulated = MODULATED_WITHOUT_OUTPUT if ends else MODULATED[itemsize]
            total += tokens * (BLOCK[itemsize] - (WITHOUT_OUTPUT[itemsize] if ends else 0.0) + norms)
            total += tokens * (modulated if f"{block}.{norm}.linear" in trained else 0.0)
        if index in self.dual:
            modulated = SECOND_MODULATED[itemsize] if f"{block}.norm1.linear" in trained else 0.0
            total += image * (SECOND[itemsize] + norms + modulated)
        return total * self.width

    def _tokens(self, name: str, image: float) -> float:
        """Tokens that a layer of a block sees."""
        if ".norm" in name:
            return 1.0
        text = any(part in name for part in (".add_", ".to_add_out", ".ff_context."))
        return self.text_tokens if text else image


def _block(name: str) -> int | None:
    """The block that a layer belongs to; None for those around the blocks."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "transformer_blocks" else None
