"""Which noise levels a flow is trained on: densities, and the shift that bigger pictures need (Esser et al. 2024)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ..parts import Choice

if TYPE_CHECKING:
    from torch import Tensor

PATCH = 2
"""Latent cells along one side of an image token."""


def inside(values: Tensor) -> Tensor:
    """The values moved into the open interval (0, 1), as far as their float type can tell; same shape."""
    import torch

    limits = torch.finfo(values.dtype)
    return values.clamp(limits.tiny, 1 - limits.eps / 2)


class Density(Choice):
    """How often each noise level is drawn, before the shift; sigma 0 is the picture and 1 is pure noise."""

    def sigma(self, level: Tensor) -> Tensor:
        """Noise level at a quantile: (B,) uniform in [0, 1) -> (B,) in (0, 1), rising with it, in its own dtype.

        A level of exactly 0, which a uniform draw may be, counts as half the smallest step of its float type.
        """
        import torch

        limits = torch.finfo(level.dtype)
        return inside(self.quantile(level.clamp(limits.eps / 4, 1 - limits.eps / 2)))

    @abstractmethod
    def quantile(self, level: Tensor) -> Tensor:
        """The inverse of the distribution function, up to float error."""


class LogitNormal(Density, name="logit_normal"):
    """logit(sigma) is normal: most draws in the middle (Esser et al. 2024, sec. 3.1)."""

    mean: float = Field(default=0.0, ge=-10, le=10)
    """Mean of logit(sigma); negative draws more low noise, where detail is."""
    std: float = Field(default=1.0, ge=0.01, le=5)
    """Deviation of logit(sigma); larger is wider."""

    def quantile(self, level: Tensor) -> Tensor:
        from torch.special import ndtri

        return (self.mean + self.std * ndtri(level)).sigmoid()


class Mode(Density, name="mode"):
    """Every level, the middle (scale above 0) or the ends (below 0) more often (Esser et al. 2024, sec. 3.1)."""

    scale: float = Field(default=1.29, ge=-1, le=1.75)  # up to 2 / (pi - 2), where the quantile stops rising
    """How much more often; 0 is uniform, 1.29 usual."""

    def quantile(self, level: Tensor) -> Tensor:
        # The paper's 1 - u - s (cos^2(pi/2 u) - 1 + u) at u = 1 - level: it falls with u, this rises with the level.
        return (1 + self.scale) * level - self.scale * (level * (math.pi / 2)).sin().square()


class CosMap(Density, name="cosmap"):
    """The log-SNR of the cosine schedule: density 2 / (pi - 2 pi sigma + 2 pi sigma^2) (Esser et al. 2024, 3.1)."""

    def quantile(self, level: Tensor) -> Tensor:
        angle = level * (math.pi / 2)
        return angle.sin() / (angle.sin() + angle.cos())  # 1 - 1 / (tan + 1), without its pole


class Uniform(Density, name="uniform"):
    """Every level equally often."""

    def quantile(self, level: Tensor) -> Tensor:
        return level


class Shift(Choice):
    """How far levels move towards noise, after they are drawn."""

    @abstractmethod
    def factor(self, h: int, w: int) -> float:
        """The shift s of latents (C, h, w); above 1 is more noise."""

    def apply(self, sigma: Tensor, h: int, w: int) -> Tensor:
        """S sigma / (1 + (s - 1) sigma), in (0, 1) (Esser et al. 2024, sec. 5.3.2); any shape.

        It adds log s to logit(sigma). Written so that each operation keeps the order of its inputs.
        """
        return inside(1 / (1 + (1 / sigma - 1) / self.factor(h, w)))

    @abstractmethod
    def sampling(self) -> Mapping[str, Any]:
        """What a flow scheduler's configuration must say to shift in the same way, as far as it can."""

    def sampling_at(self, h: int, w: int) -> Mapping[str, Any]:
        """The same for latents (C, h, w) alone."""
        return self.sampling()

    def told(self) -> str:
        """Its name and settings, in words."""
        settings = ", ".join(f"{name} {value:g}" for name, value in self.model_dump().items() if name != "name")
        return f"{self.key} ({settings})"


class ConstantShift(Shift, name="constant"):
    """The same shift for every picture."""

    value: float = Field(default=3.0, gt=0, le=100)  # Esser et al. 2024, sec. 5.3.2, for 1024 px
    """The shift: 3.0 is for 1024 px, 1.0 is none."""

    def factor(self, h: int, w: int) -> float:
        return self.value

    def sampling(self) -> Mapping[str, Any]:
        return {"shift": self.value, "use_dynamic_shifting": False}


class ResolutionShift(Shift, name="resolution"):
    """sqrt(m / n) for a picture of m image tokens (Esser et al. 2024, sec. 5.3.2): 4.0 at 1024 px against 256 px."""

    base_tokens: int = Field(default=256, ge=1, le=1_000_000)
    """n: image tokens (latents 2 x 2) of the size that needs no shift; 256 are 256 x 256 px at 8 pixels a latent."""

    def factor(self, h: int, w: int) -> float:
        return math.sqrt(tokens(h, w) / self.base_tokens)

    def sampling(self) -> Mapping[str, Any]:
        return {}  # no configuration can say this rule; where the size is not known the base's own shift stands

    def sampling_at(self, h: int, w: int) -> Mapping[str, Any]:
        return {"shift": self.factor(h, w), "use_dynamic_shifting": False}


class DynamicShift(Shift, name="dynamic"):
    """exp(mu) with mu linear in the number of image tokens, as the pipeline does where its scheduler asks for it."""

    base_shift: float = Field(default=0.5, ge=-5, le=5)
    """mu of a picture with `base_tokens` tokens."""
    max_shift: float = Field(default=1.15, ge=-5, le=5)
    """mu of a picture with `max_tokens` tokens; larger pictures go on along the same line."""
    base_tokens: int = Field(default=256, ge=1, le=1_000_000)
    """Image tokens (latents 2 x 2) of a small picture; 256 are 256 x 256 px at 8 pixels a latent."""
    max_tokens: int = Field(default=4096, ge=1, le=1_000_000)
    """Image tokens of a large picture; 4096 are 1024 x 1024 px at 8 pixels a latent."""

    @model_validator(mode="after")
    def _line(self) -> DynamicShift:
        if self.base_tokens == self.max_tokens:
            raise ValueError("base_tokens and max_tokens are equal, so they give no line")
        return self

    def factor(self, h: int, w: int) -> float:
        return math.exp(mu(self.sampling(), h, w))

    def sampling(self) -> Mapping[str, Any]:
        return {
            "use_dynamic_shifting": True,
            "time_shift_type": "exponential",
            "base_shift": self.base_shift,
            "max_shift": self.max_shift,
            "base_image_seq_len": self.base_tokens,
            "max_image_seq_len": self.max_tokens,
        }


def shift_of(scheduler: Mapping[str, Any]) -> Shift | None:
    """The shift that a flow scheduler's configuration asks for; None where it does not say."""
    said = {key: value for key, value in scheduler.items() if isinstance(value, int | float)}
    if said.get("use_dynamic_shifting"):
        names = {"base_tokens": "base_image_seq_len", "max_tokens": "max_image_seq_len"}
        keys = {name: names.get(name, name) for name in DynamicShift.model_fields}
        settings: dict[str, Any] = {name: said[key] for name, key in keys.items() if key in said}
        return DynamicShift.model_construct(**settings)
    return ConstantShift.model_construct(value=float(said["shift"])) if "shift" in said else None


def tokens(h: int, w: int) -> int:
    """Image tokens of latents (C, h, w), whole patches alone, as the pipeline counts them."""
    return (h // PATCH) * (w // PATCH)


def mu(config: Mapping[str, Any], h: int, w: int) -> float:
    """Log of the dynamic shift of latents (C, h, w), by a flow scheduler's own configuration."""
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (high - low)
    return config["base_shift"] + slope * (tokens(h, w) - low)
