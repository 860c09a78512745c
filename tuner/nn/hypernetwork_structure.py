"""How a hypernetwork is built, in plain numbers: its layers, their sizes and the names of their weights; no torch.

As in AUTOMATIC1111/stable-diffusion-webui, modules/hypernetworks/hypernetwork.py: a sequence whose members are counted
one by one, so that an activation, a norm or a dropout moves the number of every layer behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Activation = Literal[
    "linear", "relu", "relu6", "rrelu", "leakyrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "swish",
    "hardswish", "tanh", "hardtanh", "tanhshrink", "sigmoid", "hardsigmoid", "logsigmoid", "softplus", "softsign",
    "softshrink", "hardshrink",
]  # fmt: skip
"""A1111's names of the activations that work on each value alone and have no weights of their own."""

CLASSES: Mapping[str, str] = {
    "relu": "ReLU", "relu6": "ReLU6", "rrelu": "RReLU", "leakyrelu": "LeakyReLU", "elu": "ELU", "celu": "CELU",
    "selu": "SELU", "gelu": "GELU", "silu": "SiLU", "mish": "Mish", "swish": "Hardswish", "hardswish": "Hardswish",
    "tanh": "Tanh", "hardtanh": "Hardtanh", "tanhshrink": "Tanhshrink", "sigmoid": "Sigmoid",
    "hardsigmoid": "Hardsigmoid", "logsigmoid": "LogSigmoid", "softplus": "Softplus", "softsign": "Softsign",
    "softshrink": "Softshrink", "hardshrink": "Hardshrink",
}  # fmt: skip
"""Activation -> its class in `torch.nn`; A1111's `swish` is the hard one. `linear` has no member of its own."""

SIDES = ("k", "v")
"""Of a pair of networks, the first goes before the keys' projection, the second before the values'."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the sequence."""

    kind: Literal["linear", "activation", "norm", "dropout"]
    width: int
    """Values that it puts out for each token."""
    inner: int = 0
    """Of a linear layer: values that it takes."""
    share: float = 0.0
    """Of a dropout: the share that is zeroed."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each of its weights."""
        if self.kind == "linear":
            return {"weight": (self.width, self.inner), "bias": (self.width,)}
        return {"weight": (self.width,), "bias": (self.width,)} if self.kind == "norm" else {}


@dataclass(frozen=True, slots=True)
class Structure:
    """What every network of a hypernetwork looks like; only the width differs."""

    layers: tuple[float, ...] = (1, 2, 1)
    """Widths as multiples of the tokens' own, from input to output."""
    activation: str = "linear"
    activate_output: bool = False
    """Whether the activation also follows the last linear layer."""
    layer_norm: bool = False
    """Whether a LayerNorm follows every linear layer."""
    dropout: tuple[float, ...] = (0.0, 0.0)
    """Share zeroed in training behind each linear layer."""

    def members(self, width: int) -> list[Member]:
        """The sequence for tokens of `width` values.

        Order as in A1111: linear, activation, norm, dropout; a member that does nothing is left out, not counted.
        """
        found: list[Member] = []
        for i, (inner, outer) in enumerate(zip(self.layers[:-1], self.layers[1:], strict=True)):
            size = int(width * outer)
            found.append(Member("linear", size, int(width * inner)))
            if self.activation != "linear" and (i < len(self.layers) - 2 or self.activate_output):
                found.append(Member("activation", size))
            if self.layer_norm:
                found.append(Member("norm", size))
            if self.dropout[i] > 0:
                found.append(Member("dropout", size, share=self.dropout[i]))
        return found

    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Shape of each weight of one network, by A1111's name: `linear.0.weight`, `linear.0.bias`, `linear.2...`."""
        return {
            f"linear.{index}.{name}": shape
            for index, member in enumerate(self.members(width))
            for name, shape in member.shapes.items()
        }

    def kept(self, width: int, itemsize: int) -> tuple[float, float]:
        """Bytes a token that a training step keeps of one network: of its input, and of what lies between.

        Counted as in `backbones.activations`: linear layers keep what they take, activations too, norms in float32,
        dropout a byte a value (its mask on CUDA).
        """
        first, *others = self.members(width)
        sizes = {"activation": itemsize, "norm": 4, "dropout": 1}
        inner = sum(m.inner * itemsize if m.kind == "linear" else m.width * sizes[m.kind] for m in others)
        return first.inner * itemsize, inner

    def parameters(self, width: int) -> int:
        """Of a pair of networks, one for the keys and one for the values."""
        return len(SIDES) * sum(math.prod(shape) for shape in self.shapes(width).values())
