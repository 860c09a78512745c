"""Hypernetworks: small networks that rewrite the tokens from which attention makes its keys and values.

Architecture and arithmetic as in AUTOMATIC1111/stable-diffusion-webui, modules/hypernetworks/hypernetwork.py, which
credits NovelAI's blog for the idea: k = W_k h_k(x) and v = W_v h_v(x) with h(x) = x + strength * net(x).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from .hypernetwork_structure import CLASSES, SIDES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from ..draws import Draws
    from .hypernetwork_structure import Member, Structure

Init = Literal["zero", "normal", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"]

NORMAL_STD = 0.01
"""Deviation of A1111's `Normal`, which it takes for the weights of every LayerNorm, too."""


class Network(nn.Module):
    """h(x) = x + strength * net(x) for tokens of one width, float32 inside."""

    def __init__(self, structure: Structure, width: int) -> None:
        super().__init__()
        self.linear = nn.Sequential(*(_module(member, structure) for member in structure.members(width)))

    def forward(self, x: Tensor, strength: float) -> Tensor:
        """(B, tokens, width) -> the same shape and dtype."""
        inner = x.to(self.linear[0].weight.dtype)  # type: ignore[arg-type]
        return (inner + self.linear(inner) * strength).to(x.dtype)


class Hypernetwork(nn.Module):
    """A pair of networks for each width of tokens, shared by all layers that take such tokens."""

    def __init__(self, structure: Structure, widths: Iterable[int], *, strength: float = 1.0) -> None:
        super().__init__()
        self.structure, self.strength = structure, strength
        self.on = True
        """Whether it acts; where not, tokens pass as they are, bit for bit."""
        self.pairs = nn.ModuleDict(
            {str(width): nn.ModuleDict({side: Network(structure, width) for side in SIDES}) for width in widths}
        )

    @property
    def widths(self) -> list[int]:
        return [int(width) for width in self.pairs]

    def weights(self) -> dict[str, nn.Parameter]:
        """Every parameter by the name that files give it, such as `768.k.linear.0.weight`."""
        return {name.removeprefix("pairs."): p for name, p in self.named_parameters()}

    def forward(self, x: Tensor, side: str) -> Tensor:
        """(B, tokens, width) -> the same shape; tokens of other widths as they are.

        Args:
            side: `k` or `v`.
        """
        width = str(x.shape[-1])
        if not self.on or width not in self.pairs:
            return x
        return self.pairs[width][side](x, self.strength)  # type: ignore[index]

    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Copy values into the weights, by their names. Raises: KeyError, RuntimeError where they do not fit."""
        with torch.no_grad():
            for name, weight in self.weights().items():
                weight.copy_(values[name])

    @torch.no_grad()
    def initialise(self, init: Init, draws: Draws) -> None:
        """Draw every weight by its own name; biases start at 0.

        As A1111 does, a LayerNorm's weights are drawn like `normal` whatever `init` says. `zero` is `normal` with the
        last weights at 0, so that nothing is changed at the start.
        """
        for width, pair in self.pairs.items():
            for side, network in pair.items():  # type: ignore[operator]
                layers = [part for part in network.linear if isinstance(part, nn.Linear | nn.LayerNorm)]
                for index, layer in enumerate(layers):
                    layer.bias.zero_()
                    kind = "normal" if isinstance(layer, nn.LayerNorm) or init == "zero" else init
                    if init == "zero" and layer is layers[-1]:
                        layer.weight.zero_()
                    else:
                        _draw(layer.weight, kind, draws, f"{width}.{side}.{index}")


def _module(member: Member, structure: Structure) -> nn.Module:
    if member.kind == "linear":
        return nn.Linear(member.inner, member.width)
    if member.kind == "norm":
        return nn.LayerNorm(member.width)
    if member.kind == "dropout":
        return nn.Dropout(member.share)
    return getattr(nn, CLASSES[structure.activation])()


def _draw(weight: Tensor, init: str, draws: Draws, name: str) -> None:
    """Glorot & Bengio 2010 (xavier) and He et al. 2015 (kaiming), as `torch.nn.init` has them by default.

    A1111 names the activation for kaiming, but no slope, so the gain is that of ReLU either way.
    """
    shape = tuple(weight.shape)
    outer, inner = shape[0], shape[-1]
    spread = {"xavier": (2 / (inner + outer)) ** 0.5, "kaiming": (2 / inner) ** 0.5}
    std = spread.get(init.partition("_")[0], NORMAL_STD)
    if init.endswith("_uniform"):
        bound = 3**0.5 * std
        values = draws.generator("hypernetwork_init", name).uniform(-bound, bound, shape)
    else:
        values = draws.normal(shape, "hypernetwork_init", name) * std
    weight.copy_(torch.from_numpy(values))
