"""Where hypernetworks act: before the key and value projections of a denoiser's attention, whatever wraps those.

peft puts a LoRA's layer in the place of the projection, and takes it out again, at any time; a hook on the projection
alone would then sit inside that layer, where only the base sees what it does. So each attention looks before it runs
whether its projection is still the one that the hook sits on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch.utils.hooks import RemovableHandle

    from .hypernetwork import Hypernetwork

CHAIN = "hypernetworks"
"""Name of the submodule of a denoiser that holds them."""


class Chain(nn.Module):
    """Every hypernetwork of one denoiser, in the order in which they act: each takes what the one before puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleDict()
        self.seats: list[Seat] = []

    def rewrite(self, x: torch.Tensor, side: str) -> torch.Tensor:
        """(B, tokens, width) -> the same shape, for the keys or the values."""
        for member in self.members.values():
            x = member(x, side)
        return x


class Seat:
    """Keeps a chain before one projection of one attention."""

    def __init__(self, chain: Chain, attention: nn.Module, name: str, side: str) -> None:
        self.chain, self.attention, self.name, self.side = chain, attention, name, side
        self.handles: list[RemovableHandle] = [attention.register_forward_pre_hook(self.look)]
        self.layer: nn.Module | None = None
        self.look(attention, ())

    def look(self, attention: nn.Module, _args: Any) -> None:
        """Move to the projection that the attention has now.

        Raises: RuntimeError where the projections were fused, so that the chain would be passed over.
        """
        if getattr(attention, "fused_projections", False):
            raise RuntimeError("a hypernetwork cannot act on fused projections; call unfuse_qkv_projections() first")
        layer = getattr(attention, self.name)
        if layer is not self.layer:
            for handle in self.handles[1:]:
                handle.remove()
            self.layer, self.handles[1:] = layer, [layer.register_forward_pre_hook(self.act)]

    def act(self, _layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.chain.rewrite(args[0], self.side), *args[1:]

    def leave(self) -> None:
        for handle in self.handles:
            handle.remove()


def chain_of(denoiser: nn.Module) -> Chain | None:
    """The hypernetworks of a denoiser; None where it has none."""
    chain = getattr(denoiser, CHAIN, None)
    return chain if isinstance(chain, Chain) else None


def attach(denoiser: nn.Module, name: str, network: Hypernetwork, places: Mapping[str, Iterable[str]]) -> None:
    """Let a hypernetwork act behind those that are there already, in eval mode, on the denoiser's device.

    Args:
        denoiser: a UNet or a transformer of diffusers.
        name: its name there, free and without a dot.
        network: what acts.
        places: by side (`k`, `v`), the full names of the projections, each a child of its attention.
    """
    chain = chain_of(denoiser)
    if chain is None:
        chain = Chain()
        for side, layers in places.items():
            for layer in layers:
                attention, _, own = layer.rpartition(".")
                chain.seats.append(Seat(chain, denoiser.get_submodule(attention), own, side))
        denoiser.add_module(CHAIN, chain)
    network.to(next(denoiser.parameters()).device).eval()
    chain.members[name] = network


def detach(denoiser: nn.Module, name: str) -> None:
    """Take a hypernetwork off; with the last one the denoiser is as it was. Raises: KeyError."""
    chain = chain_of(denoiser)
    if chain is None:
        raise KeyError(name)
    del chain.members[name]
    if not chain.members:
        for seat in chain.seats:
            seat.leave()
        delattr(denoiser, CHAIN)
