"""What is known of a base model without its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .activations import Activations


@dataclass(frozen=True, slots=True)
class Layout:
    """What is known of a base model without its weights: enough to plan a run."""

    factor: int
    """Pixels a latent cell, along one side."""
    channels: int
    """Latent channels C."""
    tokens: int
    """Text tokens L that a caption may have, the start and end marks included."""
    parameters: Mapping[str, int]
    """Number of parameters of each component, by diffusers' name (`unet`, `vae`, `text_encoder`)."""
    linears: Mapping[str, Mapping[str, tuple[int, int]]]
    """(in, out) features of every linear layer by component (denoiser, text encoders) and full name."""
    layers: Mapping[str, Mapping[str, int]]
    """Parameters of every layer, its bias among them, by component and full name."""
    activations: Activations
    """What a step of the denoiser holds."""
    text_tokens: Mapping[str, int]
    """Tokens that each text encoder reads, by component."""
    max_side_px: int | None = None
    """The longest side that the denoiser has positions for; None where there is no end."""
    pretrained_px: int | None = None
    """Side of the largest square that the base was pretrained on; None where that is not known."""
    text_width: int | None = None
    """Width D of the text that the denoiser takes; None where it is the input of the layers at `context_kv`."""
    caption_tokens: int | None = None
    """Of `tokens`, those that a caption may fill; None where it is all of them."""
    shared_tokens: int | None = None
    """Of `caption_tokens`, those that every text encoder reads; None where it is all of them."""
    convs: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """(in, out, side of the kernel) of the denoiser's convolutions, by full name."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """The base's own scheduler configuration, where it is known."""
