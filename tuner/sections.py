"""The sections of a recipe that are not a family: data, train, sample, save, log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from .data.sources import HeldOutSource, as_list
from .optim.optimizers import AdamW, Optimizer
from .optim.schedules import Constant, Schedule
from .parts import Part


class Epochs(Part):
    """An interval in epochs."""

    epochs: int = Field(ge=1, le=1_000_000)
    """Number of epochs."""


Every = Annotated[int, Field(ge=1, le=100_000_000)] | Epochs
"""An interval: optimizer steps, or {epochs: n}."""

Colour = Literal["white", "black", "grey"]


class DataOptions(Part):
    """Where the pictures are and how they become training examples. The tasks add their roles to it."""

    resolution: int = Field(default=512, ge=16, le=4096)
    """Side in pixels of the square whose area the pictures are scaled to."""
    crop: Literal["buckets", "center", "random"] = "buckets"
    """`buckets` keeps each picture's shape; `center` and `random` cut a square (random needs cache: off)."""
    bucket_step: int = Field(default=64, ge=8, le=512)
    """Bucket sides are multiples of this many pixels."""
    background: Colour = "white"
    """Colour put behind transparent pictures."""
    trigger: str | None = Field(default=None, min_length=1, max_length=100)
    """Word put in front of each caption of the first role that lacks it."""
    caption_dropout: float = Field(default=0.0, ge=0, le=1)
    """Share of visits that see an empty caption instead."""
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of visits that do without a text encoder (zeros in its place), drawn for each of them by itself; where
    there are several. SD3 was trained at 0.463; an adapter needs none."""
    flip: bool = False
    """Show each picture mirrored on half of its visits; not for faces, text, or anything with a left and a right."""
    color_jitter: float = Field(default=0.0, ge=0, le=1)
    """Strength of random brightness, contrast and saturation; needs cache: off."""
    cache: Literal["disk", "off"] = "disk"
    """`disk` encodes each picture once; `off` encodes on every visit."""

    @field_validator("cache", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return {True: "disk", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _effects(self) -> DataOptions:
        if self.crop != "buckets":
            self.refuse_idle({"bucket_step": f"with crop: {self.crop}"})
        wrong = []
        if self.cache == "disk" and self.crop == "random":
            wrong.append("crop: random needs cache: off, for a cached picture has one crop")
        if self.cache == "disk" and self.color_jitter:
            wrong.append("color_jitter needs cache: off, for a cached picture has one colour")
        if self.resolution % 8:
            wrong.append(f"resolution {self.resolution} is not a multiple of 8")
        elif self.crop == "buckets" and self.resolution < self.bucket_step:
            wrong.append(f"resolution {self.resolution} is smaller than bucket_step {self.bucket_step}")
        if self.bucket_step % 8:
            wrong.append(f"bucket_step {self.bucket_step} is not a multiple of 8")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class EMA(Part):
    """An exponential moving average of the trained weights, beside the raw ones. No hidden warm-up."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """Share of the old average kept at each update."""
    every: int = Field(default=1, ge=1, le=100_000)
    """Steps between updates."""


class Train(Part):
    """How long, how fast, in what precision."""

    steps: int | None = Field(default=None, ge=1, le=100_000_000)
    """Optimizer steps, whatever the accumulation or the number of processes."""
    epochs: int | None = Field(default=None, ge=1, le=1_000_000)
    """Instead of steps: visits of every picture of the first role."""
    batch: int = Field(default=1, ge=1, le=65_536)
    """Units in a micro-batch; a DreamBooth unit is one instance and one prior picture."""
    accumulate: int = Field(default=1, ge=1, le=65_536)
    """Micro-batches that make one optimizer step."""
    lr: float = Field(default=1e-4, gt=0, le=100)
    """Peak learning rate; with prodigy a multiple of what it finds, so 1."""
    schedule: Schedule = Constant()
    """Shape of the learning rate over the run, each with `warmup` steps."""
    optimizer: Optimizer = AdamW()
    """How a gradient becomes an update."""
    optimizer_in_backward: bool = False
    """Update each weight as soon as its gradient is there, and let go of the gradient: saves a copy of what trains. It
    can neither clip (set max_grad_norm: null) nor accumulate."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients longer than this are scaled down to it; null never clips."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the frozen model; adapters are always fp32. auto: bf16 where the GPU has it, else fp16 on CUDA, else fp32."""
    gradient_checkpointing: bool = False
    """Recompute the denoiser's activations in the backward pass: less memory, about a third slower."""
    ema: EMA | None = None
    """Keep an average of the weights; files and samples then use it."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of every random number of the run."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Where to train; auto takes the first of these that is there."""
    max_bad_steps: int = Field(default=5, ge=1, le=10_000)
    """Stop after this many steps in a row whose loss or gradient is not finite (none of them moves a weight)."""

    @model_validator(mode="after")
    def _length(self) -> Train:
        if self.steps is None and self.epochs is None:
            raise ValueError("how long? give steps or epochs")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs are both given; keep one")
        if self.optimizer_in_backward and self.accumulate > 1:
            raise ValueError(
                "optimizer_in_backward with accumulate > 1: each micro-batch would be a step of its own; keep one"
            )
        if self.optimizer_in_backward and self.max_grad_norm is not None:
            raise ValueError(
                "optimizer_in_backward cannot clip: the norm of all gradients is known when the first are used up; "
                "set max_grad_norm: null"
            )
        if self.optimizer_in_backward and self.precision == "fp16":
            raise ValueError("optimizer_in_backward cannot scale the loss, as precision: fp16 needs; take bf16 or fp32")
        return self


SchedulerName = Literal["auto", "dpm++", "ddim", "euler", "flow_euler"]


class Sample(Part):
    """Pictures drawn while training, always from the same noise."""

    every: Every | None = None
    """Interval between samples; null draws none. The first are drawn before the first step."""
    prompts: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """What to draw. Keep one prompt without the trigger, to see the class drift."""
    negative: str = ""
    """Negative prompt of all of them."""
    scheduler: SchedulerName = "auto"
    """Sampler: dpm++ (DPM-Solver++ multistep), ddim or euler, and flow_euler on a flow; auto is dpm++ or flow_euler."""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """Sampler steps; null takes the base's own: 25 on sd15, 28 on sd35, 4 on a turbo."""
    guidance: float | None = Field(default=None, ge=0, le=50)
    """Classifier-free guidance scale; 1 or less turns it off. null takes the base's own: 7.5 on sd15, 4.5 on SD3.5,
    7.0 on SD3 medium, none on a turbo."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the first prompt; the next takes the next."""
    size: int | None = Field(default=None, ge=16, le=4096)
    """Side in pixels; null takes data.resolution."""

    @model_validator(mode="after")
    def _effects(self) -> Sample:
        if not self.prompts:
            self.refuse_idle({"every": "without prompts"} if self.every is not None else {})
        if self.size is not None and self.size % 8:
            raise ValueError(f"size {self.size} is not a multiple of 8")
        return self


class Validation(Part):
    """Loss on pictures that the run never learns from, always under the same noise; it names the best checkpoint."""

    every: Every
    """Interval between measurements. The first is before the first step, the last after the last one."""
    images: Annotated[tuple[HeldOutSource, ...], Field(min_length=1), BeforeValidator(as_list)] | None = None
    """The held-out pictures: other ones than those trained on, and like them."""
    hold_out: float | None = Field(default=None, gt=0, lt=1)
    """Instead of images: this share of the first role's pictures (at least one), drawn by train.seed, is held out."""

    @model_validator(mode="after")
    def _one_way(self) -> Validation:
        if self.images is None and self.hold_out is None:
            raise ValueError("which pictures? give images (pictures of its own) or hold_out (a share of those there)")
        if self.images is not None and self.hold_out is not None:
            raise ValueError("images and hold_out are both given; keep one")
        return self


class Save(Part):
    """Checkpoints and files."""

    every: Every | None = 500
    """Interval between checkpoints; null writes one at the end alone (and when stopped)."""
    keep: int = Field(default=3, ge=1, le=1000)
    """Resume states kept. Adapter files of every save stay."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of the adapter files; the state to resume from is always fp32."""
    metadata: Literal["full", "minimal", "none"] = "full"
    """What the files say about how they were made; never a path or a token."""


class Log(Part):
    """What is written down while training."""

    every: int = Field(default=10, ge=1, le=1_000_000)
    """Steps between lines of metrics.jsonl."""
    to: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], BeforeValidator(as_list)] = ()
    """Trackers that get the same numbers and samples. Each needs its package (extra `track`)."""
    attention_logit: bool | None = None
    """Also log the largest attention logit of each interval's last step, `attention_logit_max`; null does so where
    queries and keys are not normalised (SD3 medium). That step takes about a twentieth longer."""
