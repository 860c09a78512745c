"""How much memory a denoiser's activations take, from its layout alone; each backbone owns its coefficients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

Beside = Mapping[str, tuple[float, float]]
"""By layer, linear or convolution, the bytes of each value that goes in and of each that comes out."""

STREAMS = {name: name[:2] for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")}
"""Layers that read the same tensor, within one attention."""


class Activations(ABC):
    """Bytes of one example.

    The coefficients are counted: every tensor that a step holds on the true architectures, each storage once, with
    attention computed in tiles. In 16 bit they are those of autocast on CUDA, which computes norms in float32 and casts
    the input of each layer anew; in 32 bit, where nothing is cast, layers share an input.
    """

    @abstractmethod
    def training(
        self,
        area: int,
        itemsize: int,
        layers: Collection[str] | None,
        *,
        checkpointing: bool = False,
        beside: Beside = MappingProxyType({}),
    ) -> float:
        """The most that a training step holds at a time, without weights, their gradients and the optimizer's state.

        Args:
            area: pixels of the picture.
            itemsize: 2 in 16 bit, 4 in 32 bit.
            layers: linear layers of the denoiser that train, whole or by an adapter, each of which keeps its input;
                None where all weights do.
            checkpointing: whether a block's activations are computed again in the backward pass.
            beside: what layers keep beside that input.
        """

    @abstractmethod
    def forward(self, area: int, itemsize: int) -> float:
        """The most that a prediction without gradients holds at a time."""


def distinct_inputs(layers: Collection[str], itemsize: int) -> set[str]:
    """Of the layers that train, one for each input that is kept: in 32 bit queries, keys and values share theirs."""
    if itemsize == 2:
        return set(layers)
    shared: dict[str, str] = {}
    for name in sorted(layers):
        head, _, last = name.rpartition(".")
        stream = STREAMS.get(last, last)
        # Of a UNet, where keys and values of the second attention are the text's; an MMDiT's name begins there.
        text = head.endswith(".transformer_blocks.0.attn2") and last in ("to_k", "to_v")
        shared.setdefault(f"{head}.{stream}{' of the text' if text else ''}", name)
    return set(shared.values())
