"""Denoising diffusion (Ho et al. 2020) on the base model's own noise table, predicting epsilon or v."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ..errors import RecipeError
from ..types import Draw, Noised
from .base import BoundObjective, Objective, is_flow

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..types import Batch


class DDPM(Objective, name="ddpm"):
    """Predict the noise (or v) at one of the base's timesteps, drawn uniformly."""

    prediction: Literal["auto", "epsilon", "v"] = "auto"
    """What the denoiser predicts; auto takes what the base model says of itself."""
    zero_terminal_snr: bool = False
    """Rescale the noise table so that its last step is pure noise (Lin et al. 2023); needs a v-predicting base."""
    min_snr_gamma: float | None = Field(default=None, gt=0, le=1000)
    """Cap of the SNR in the loss weight (Hang et al. 2023; 5 is usual); null weighs all timesteps alike."""
    noise_offset: float = Field(default=0.0, ge=0, le=1)
    """Strength of noise that shifts a whole channel, for darker darks (0.05 to 0.1); it is part of the target."""
    input_perturbation: float = Field(default=0.0, ge=0, le=1)
    """Extra noise on the input alone, not on the target (Ning et al. 2023; 0.1 is usual)."""

    elsewhere = {
        "levels": "is of rectified_flow; ddpm draws the base's own timesteps alike",
        "shift": "is of rectified_flow; ddpm takes the base's own noise table",
        "weighting": "is of rectified_flow; here `min_snr_gamma` says what each timestep weighs",
    }

    def needs(self) -> Mapping[str, Draw]:
        needs = {"noise": Draw("normal", "latent"), "level": Draw("uniform", "scalar")}
        if self.noise_offset:
            needs["offset"] = Draw("normal", "channel")
        if self.input_perturbation:
            needs["perturbation"] = Draw("normal", "latent")
        return needs

    def bind(self, scheduler: Mapping[str, Any], device: torch.device) -> BoundDDPM:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        if is_flow(scheduler):
            raise RecipeError(
                [f"backbone.model: its scheduler is {scheduler['_class_name']}, so it predicts a flow's velocity"],
                "take objective: rectified_flow, or leave the objective to the backbone",
            )
        predicts = {"epsilon": "epsilon", "v_prediction": "v"}.get(str(scheduler.get("prediction_type", "epsilon")))
        if predicts is None:
            said = scheduler["prediction_type"]
            raise RecipeError([f"backbone.model: predicts {said!r}; there is epsilon, v_prediction"])
        prediction = predicts if self.prediction == "auto" else self.prediction
        zero = self.zero_terminal_snr or bool(scheduler.get("rescale_betas_zero_snr", False))
        if zero and prediction == "epsilon":
            raise RecipeError(
                ["objective.zero_terminal_snr: at the last timestep there is nothing to predict epsilon from"],
                "take a v-predicting base, or leave zero_terminal_snr off",
            )
        config = dict(scheduler) | {"rescale_betas_zero_snr": zero}
        own: Any = DDPMScheduler.from_config(config)
        table = own.alphas_cumprod.to(device)  # (T,) float32
        return BoundDDPM(self, prediction, zero, table)


@dataclass(frozen=True, slots=True)
class BoundDDPM(BoundObjective):
    """DDPM with the base's table of alpha-bar."""

    objective: DDPM
    prediction: str
    zero_terminal_snr: bool
    alpha_bar: Tensor
    """(T,) float32 signal power at each timestep."""

    def corrupt(self, batch: Batch) -> Noised:
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise  (Ho et al. 2020, eq. 4)."""
        x_0, draws = batch.latents, batch.draws
        count = len(self.alpha_bar)
        # level < 1, but its float32 product with T can round up to T
        timestep = (draws["level"] * count).long().clamp(max=count - 1)  # (B,)
        power = self.alpha_bar[timestep].to(x_0.dtype)  # (B,), x_0 is at least float32
        signal, sigma = power.sqrt()[:, None, None, None], (1 - power).sqrt()[:, None, None, None]
        noise = draws["noise"]
        if "offset" in draws:
            noise = noise + self.objective.noise_offset * draws["offset"]
        target = noise if self.prediction == "epsilon" else signal * noise - sigma * x_0  # Salimans & Ho 2022, app. D
        if "perturbation" in draws:
            noise = noise + self.objective.input_perturbation * draws["perturbation"]
        return Noised(signal * x_0 + sigma * noise, timestep.float(), target, self.weight(power))

    def weight(self, power: Tensor) -> Tensor:
        """min-SNR (Hang et al. 2023, sec. 3.4): min(snr, gamma) / snr for epsilon, / (snr + 1) for v; (B,)."""
        gamma = self.objective.min_snr_gamma
        if gamma is None:
            return power.new_ones(power.shape)
        snr = power / (1 - power)
        capped = snr.clamp(max=gamma)
        return capped / snr if self.prediction == "epsilon" else capped / (snr + 1)

    def sampling(self) -> Mapping[str, Any]:
        kind = "epsilon" if self.prediction == "epsilon" else "v_prediction"
        changes: dict[str, Any] = {"prediction_type": kind}
        if self.zero_terminal_snr:
            changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return changes
