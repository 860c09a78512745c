"""Rectified flow (Liu et al. 2022), trained as in Esser et al. 2024: a straight path to noise, predicting velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from ..errors import RecipeError
from ..parts import problems_error
from ..types import Draw, Noised
from .base import BoundObjective, Objective, is_flow
from .flow_levels import ConstantShift, Density, LogitNormal, Shift, shift_of
from .flow_weights import NoWeighting, SigmaSqrt, Weighting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..types import Batch

TIMESTEPS = 1000
"""The timestep of pure noise, as the denoiser is told it."""


class RectifiedFlow(Objective, name="rectified_flow"):
    """Predict the velocity, noise - x_0, on the straight line between picture and noise."""

    levels: Density = LogitNormal()
    """Which noise levels are drawn, before the shift: logit_normal, mode, cosmap or uniform."""
    shift: Shift = ConstantShift()
    """How drawn levels move towards noise: constant, resolution or dynamic."""
    weighting: Weighting = NoWeighting()
    """What a level weighs in the loss, after the shift: none, cosmap, sigma_sqrt or x0."""

    elsewhere = {
        "prediction": "is of ddpm; rectified flow predicts the velocity and nothing else",
        "min_snr_gamma": "is of ddpm; here `levels` says which noise levels count, and `weighting` what each weighs",
        "zero_terminal_snr": "is of ddpm; a flow ends in pure noise as it is",
        "noise_offset": "is of ddpm; a flow ends in pure noise, so it needs none; a larger `shift` trains it more",
        "input_perturbation": "is of ddpm; rectified flow has nothing like it",
    }

    @model_validator(mode="after")
    def _weighed_once(self) -> RectifiedFlow:
        if isinstance(self.weighting, SigmaSqrt) and isinstance(self.levels, LogitNormal):
            text = (
                "sigma_sqrt is for levels that are drawn alike: logit_normal levels say already what counts, and "
                "1 / sigma^2 on top hangs a step on its rare smallest level; take weighting: none or levels: uniform"
            )
            raise problems_error([("weighting", text, "value_error")])
        return self

    def needs(self) -> Mapping[str, Draw]:
        return {"noise": Draw("normal", "latent"), "level": Draw("uniform", "scalar")}

    def notes(self, scheduler: Mapping[str, Any]) -> Sequence[str]:
        """A shift that is not the base's own: samples of the run follow it, other tools have to be told."""
        base, own = shift_of(scheduler), self.shift
        if base is None or own == base:
            return ()
        return [
            f"objective.shift: {own.told()}, but the base's own scheduler says {base.told()}; "
            "this run's samples follow the recipe, elsewhere set the shift for the adapter"
        ]

    def scheduler_changes(self, h: int, w: int) -> Mapping[str, Any]:
        return self.shift.sampling_at(h, w)

    def bind(self, scheduler: Mapping[str, Any], device: torch.device) -> BoundRectifiedFlow:
        if not is_flow(scheduler):
            said = scheduler.get("_class_name", "not named")
            raise RecipeError(
                [f"backbone.model: its scheduler is {said}, so it is no flow and predicts no velocity"],
                "take objective: ddpm, or a base of the Stable Diffusion 3 family",
            )
        count = scheduler.get("num_train_timesteps", TIMESTEPS)
        if count != TIMESTEPS:
            raise RecipeError([f"backbone.model: its timesteps end at {count}; a flow's are 1000 sigma"])
        return BoundRectifiedFlow(self)


@dataclass(frozen=True, slots=True)
class BoundRectifiedFlow(BoundObjective):
    """Rectified flow; it has no tables, and its levels are continuous."""

    objective: RectifiedFlow
    prediction: str = "velocity"

    def sigma(self, level: Tensor, h: int, w: int) -> Tensor:
        """(B,) uniform draws -> (B,) noise levels in (0, 1) of latents (C, h, w), in at least float32."""
        import torch

        level = level.to(torch.promote_types(level.dtype, torch.float32))
        return self.objective.shift.apply(self.objective.levels.sigma(level), h, w)

    def corrupt(self, batch: Batch) -> Noised:
        """x_t = (1 - sigma) x_0 + sigma noise  (Esser et al. 2024, eq. 13)."""
        h, w = batch.latents.shape[-2:]
        sigma = self.sigma(batch.draws["level"], h, w)
        x_0 = batch.latents.to(sigma.dtype)  # bf16 has 355 levels, and none between 0.996 and 1
        noise = batch.draws["noise"].to(sigma.dtype)
        part = sigma[:, None, None, None]
        x_t = (1 - part) * x_0 + part * noise
        return Noised(x_t, sigma * TIMESTEPS, noise - x_0, self.objective.weighting.weight(sigma))

    def sampling(self) -> Mapping[str, Any]:
        return self.objective.shift.sampling()

    def sampling_at(self, h: int, w: int) -> Mapping[str, Any]:
        return self.objective.shift.sampling_at(h, w)
