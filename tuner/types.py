"""The values that flow through one step.

Shape letters used across the package:
    B     examples in a micro-batch (units x roles, role-major: all of role 0, then all of role 1)
    C     latent channels (4 for SD1.5, 16 for SD3.5)
    h, w  latent height and width (pixels / the VAE's factor)
    L     text tokens
    D     text width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Draw:
    """A random number that an objective needs for each example; its key in `Objective.needs` is its purpose."""

    kind: Literal["normal", "uniform"]
    """Standard normal, or uniform in [0, 1)."""
    shape: Literal["latent", "channel", "scalar"]
    """(C, h, w), (C, 1, 1) or () an example."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids by text encoder, each (B, L) int64, and what did not fit."""

    ids: Mapping[str, Tensor]
    cut: Sequence[str] = ()
    """The text that was cut off each prompt, '' where all of it fits. Empty when nobody asked."""
    partly: Sequence[str] = ()
    """The text of each prompt that some encoders read and others do not, '' where there is none. As `cut`."""

    def to(self, device: torch.device) -> Tokens:
        return Tokens({k: v.to(device, non_blocking=True) for k, v in self.ids.items()}, self.cut, self.partly)


@dataclass(frozen=True, slots=True)
class Cond:
    """What one backbone's denoiser takes besides x_t and the timestep, opaque to everyone else. Leading axis B."""

    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Cond:
        return Cond({k: v.to(device, dtype, non_blocking=True) for k, v in self.tensors.items()})


@dataclass(frozen=True, slots=True)
class Posterior:
    """The VAE's distribution over latents, scaled to about unit variance; both (B, C, h, w) float32."""

    mean: Tensor
    logvar: Tensor


@dataclass(frozen=True, slots=True)
class Role:
    """One place in a unit, such as instance and prior, or chosen and rejected."""

    name: str
    mirrors: str | None = None
    """The role whose picture, noise and level this one takes, under a caption of its own."""
    beside: str | None = None
    """The role that it makes pairs with: its picture i belongs to picture i of that one, and the two are seen under one
    caption, flip, crop, noise and level."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything a loss needs for one micro-batch, on the device. The step after it is pure."""

    latents: Tensor
    """(B, C, h, w) float32, about unit variance."""
    draws: Mapping[str, Tensor]
    """What the objective declared it needs, each with leading axis B."""
    text: Cond | Tokens
    """Cached embeddings; token ids when something in a text encoder trains."""
    weight: Tensor
    """(B,) float32. Over one optimizer step (all micro-batches, all processes) each role's weights sum to 1."""
    roles: tuple[Role, ...]
    """The equal blocks along B, in order."""

    def by_role(self, values: Tensor) -> dict[str, Tensor]:
        """Split a tensor with leading axis B into its role blocks."""
        names = (role.name for role in self.roles)
        return dict(zip(names, values.chunk(len(self.roles)), strict=True))

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.latents.to(device, non_blocking=True),
            {k: v.to(device, non_blocking=True) for k, v in self.draws.items()},
            self.text.to(device),
            self.weight.to(device, non_blocking=True),
            self.roles,
        )


@dataclass(frozen=True, slots=True)
class Noised:
    """A batch on its way to noise, and what the denoiser should say about it."""

    x_t: Tensor
    """(B, C, h, w) what the denoiser sees."""
    timestep: Tensor
    """(B,) float32 in [0, 1000), the unit every backbone takes."""
    target: Tensor
    """(B, C, h, w) float32, what it should predict."""
    weight: Tensor
    """(B,) float32 the objective's weight of each example's loss."""

    def losses(self, prediction: Tensor, target: Tensor | None = None) -> Tensor:
        """Weighted mean squared error of each example, (B,), in at least float32; against `target` where given."""
        goal = self.target if target is None else target
        dtype = goal.dtype if goal.dtype.itemsize > 4 else None
        error = (prediction.to(dtype) if dtype else prediction.float()) - (goal if dtype else goal.float())
        return error.square().flatten(1).mean(1) * self.weight


@dataclass(frozen=True, slots=True)
class Loss:
    total: Tensor
    """() the scalar to differentiate; adding it over the micro-batches of a step gives the step's loss."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Detached scalars to log by name; they add up over micro-batches in the same way."""


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """Parameters that share a learning rate. After the fraction `until` of the run they freeze."""

    name: str
    params: Mapping[str, nn.Parameter]
    lr: float | None = None
    """Peak learning rate; None takes the run's."""
    weight_decay: float | None = None
    """None takes the optimizer's."""
    ratio: float = 1.0
    """What the learning rate is multiplied by, whoever names it, as LoRA+ asks for one factor of each layer."""
    until: float = 1.0

    def peak(self, lr: float) -> float:
        """Its peak learning rate in a run whose own is `lr`."""
        return (self.lr or lr) * self.ratio
