"""A loaded Stable Diffusion 3.5: its conventions of scaling, text and pipeline."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from ..types import Cond, Tokens
from . import sd35_text, vae_latents
from .base import DiffusionModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import torch
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from torch import Tensor, nn

    from ..types import Posterior
    from .sd35 import SD35


class SD35Model(DiffusionModel):
    """Stable Diffusion 3.5 in memory; `text_encoders` holds those that the model has and the recipe wants."""

    denoiser_name = "transformer"

    def __init__(
        self,
        backbone: SD35,
        modules: Mapping[str, nn.Module],
        tokenizers: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        identify: Callable[[str], str],
        notes: Sequence[str] = (),
        warnings: Sequence[str] = (),
    ) -> None:
        """Take over modules by diffusers' component name, and tokenizers by the name of their text encoder."""
        self.backbone = backbone
        self.denoiser = modules["transformer"]
        self.vae = modules["vae"]  # type: ignore[assignment]
        self.text_encoders = {name: modules[name] for name in backbone.text_components if name in modules}
        self.tokenizers = dict(tokenizers)
        self.scheduler = scheduler
        self.notes, self.warnings = tuple(notes), tuple(warnings)
        self.channels, self.factor = vae_latents.channels(self.vae), vae_latents.factor(self.vae)
        self.logits_may_grow = not self.denoiser.config.get("qk_norm")  # type: ignore[union-attr]
        self._t5_length, self._positions = backbone.t5_length, backbone.positions
        self.reads_on = sd35_text.longest(self.text_encoders, backbone.t5_length)
        self._parts = sd35_text.parts(self.text_encoders, self.denoiser.config["pooled_projection_dim"])  # type: ignore[index]
        self._identify = cache(identify)

    def identity(self, component: str) -> str:
        return self._identify(component)

    def encode_images(self, pixels: Tensor) -> Posterior:
        return vae_latents.encode(self.vae, pixels)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return vae_latents.decode(self.vae, latents)

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """As in the base class; cut is what no encoder reads, for T5 reads on where the CLIPs end."""
        return sd35_text.tokenize(self.tokenizers, self.text_encoders, prompts, self._t5_length)

    def encode_text(self, tokens: Tokens) -> Cond:
        """`text` (B, 77 + t5_length, D) and `pooled` (B, P), differentiable in the CLIPs."""
        config: Mapping[str, Any] = self.denoiser.config  # type: ignore[assignment]
        left_out = {name: ids[:, 0] < 0 for name, ids in tokens.ids.items()}
        cond = sd35_text.encode(
            self.text_encoders,
            Tokens({name: ids.clamp(min=0) for name, ids in tokens.ids.items()}),
            pooled_width=config["pooled_projection_dim"],
            width=config["joint_attention_dim"],
            t5_length=self._t5_length,
        )
        return self.without(cond, left_out)

    def without(self, cond: Cond, dropped: Mapping[str, Tensor]) -> Cond:
        """As in the base class: zeros where the pipeline has zeros for an encoder that is not there."""
        return sd35_text.silence(cond, dropped, self._parts)

    def denoise(self, x_t: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """As in the base class: the velocity at sigma = timestep / 1000, which stays float32 up to its sinusoids."""
        dtype: torch.dtype = self.denoiser.proj_out.weight.dtype  # type: ignore[union-attr,assignment]  # `.dtype` walks it
        return self.denoiser(
            hidden_states=x_t.to(dtype),
            timestep=timestep,
            encoder_hidden_states=cond["text"].to(dtype),
            pooled_projections=cond["pooled"].to(dtype),
            return_dict=False,
        )[0]

    def varied(self, seed: int) -> AbstractContextManager[None]:
        """As in the base class: where pictures lie in the table of positions, if `positions` is random."""
        if self._positions == "center":
            return nullcontext()
        from .sd35_positions import anywhere

        return anywhere(self.denoiser, seed)

    def extend_positions(self, side_px: int) -> None:
        """As in the base class."""
        from .sd35_positions import extend

        extend(self.denoiser, -(-side_px // (self.factor * self.denoiser.config["patch_size"])))  # type: ignore[index]

    def pipeline(self, scheduler: str = "auto", sampling: Mapping[str, Any] | None = None) -> StableDiffusion3Pipeline:
        """As in the base class. Call it with `max_sequence_length=backbone.t5_length` to read prompts as in training.

        diffusers draws a prompt only where both CLIPs are there; `sampling.paint` draws without, too.
        """
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

        from ..sampling import sampler

        pairs = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"}
        words = {short: self.tokenizers.get(name) for name, short in pairs.items()}
        encoders = {name: self.text_encoders.get(name) for name in pairs}
        return StableDiffusion3Pipeline(
            transformer=self.denoiser,  # type: ignore[arg-type]
            vae=self.vae,
            scheduler=sampler(self.scheduler, scheduler, sampling or {}),  # type: ignore[arg-type]
            **encoders,  # type: ignore[arg-type]
            **words,  # type: ignore[arg-type]
        )
