"""Pictures from a model: samplers on the base's own noise levels, and noise that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .draws import Draws
from .errors import NumbersError, UsageError
from .types import Cond

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from PIL.Image import Image
    from torch import Tensor

    from .backbones import DiffusionModel
    from .objectives import BoundObjective

SCHEDULERS = ("dpm++", "ddim", "euler")
"""DPM-Solver++ multistep (Lu et al. 2022), DDIM (Song et al. 2021), Euler (Karras et al. 2022, algorithm 2)."""
FLOW_SCHEDULERS = ("flow_euler",)
"""Euler along the velocity (Esser et al. 2024)."""
SAMPLERS: Mapping[str, tuple[str, ...]] = {"ddpm": SCHEDULERS, "rectified_flow": FLOW_SCHEDULERS}
"""What draws a base, by the objective that it was pretrained with; the first is what `auto` takes."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture to draw."""

    prompt: str
    negative: str = ""
    seed: int = 0
    size: tuple[int, int] = (512, 512)
    """Width and height in pixels."""
    steps: int = 25
    guidance: float = 7.5
    """1 or less draws without guidance, in half the time."""
    scheduler: str = "auto"
    """One of SCHEDULERS or FLOW_SCHEDULERS; `auto` is the first of those that draw the base."""


def choose(base: Mapping[str, Any], name: str) -> str:
    """The sampler of that name, or for `auto` the one that the base's kind is drawn with by default.

    Args:
        base: the base model's `scheduler_config.json`.
        name: `auto`, or one of SCHEDULERS or FLOW_SCHEDULERS.

    Raises: UsageError where the base is of the other kind.
    """
    from .objectives.base import is_flow

    kind, there = ("a flow", FLOW_SCHEDULERS) if is_flow(base) else ("no flow", SCHEDULERS)
    if name == "auto":
        return there[0]
    if name not in there:
        known = name in (*SCHEDULERS, *FLOW_SCHEDULERS)
        raise UsageError(
            f"scheduler {name} does not draw this base, which is {kind}" if known else f"unknown scheduler {name!r}",
            f"there is {', '.join(there)}",
        )
    return name


def sampler(base: Mapping[str, Any], name: str, sampling: Mapping[str, Any]) -> SchedulerMixin:
    """A fresh deterministic sampler on the base's noise levels.

    Args:
        base: the base model's `scheduler_config.json`.
        name: as for `choose`.
        sampling: overrides from the objective (`BoundObjective.sampling_at`).

    Raises: UsageError where that sampler cannot draw this base.
    """
    from inspect import signature

    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    kinds = {
        "dpm++": DPMSolverMultistepScheduler,
        "ddim": DDIMScheduler,
        "euler": EulerDiscreteScheduler,
        "flow_euler": FlowMatchEulerDiscreteScheduler,
    }
    kind: Any = kinds[choose(base, name)]
    wanted = {"clip_sample": False, **base, **sampling}  # DDIM would clip by default, which latents do not stand
    known = signature(kind.__init__).parameters
    config = {key: value for key, value in wanted.items() if key in known}
    return kind.from_config(config)


def set_timesteps(steps: SchedulerMixin, count: int, latent: tuple[int, int], device: torch.device) -> None:
    """Set a sampler's timesteps.

    Args:
        steps: from `sampler`.
        count: number of steps.
        latent: height and width of the latents, on which a flow's dynamic shift depends.
        device: where the timesteps go.
    """
    from .objectives.flow_levels import mu

    by_size = {"mu": mu(steps.config, *latent)} if steps.config.get("use_dynamic_shifting") else {}  # type: ignore[attr-defined]
    steps.set_timesteps(count, device=device, **by_size)  # type: ignore[attr-defined]


def paint(
    model: DiffusionModel, shots: Sequence[Shot], *, objective: BoundObjective | None = None, batch: int = 1
) -> list[Image]:
    """Draw each shot. A picture depends on its shot and the weights alone, up to float error: not on its neighbours.

    The encoders and the VAE visit the denoiser's device; they, every module's mode and the random generators are as
    before when this returns. Text encoders stay where they are if all prompts were read ahead.

    Args:
        model: with or without adapters.
        shots: what to draw.
        objective: of the run, so that a v-predicting or zero-terminal-SNR one is sampled as it was trained.
        batch: pictures at a time, where they share size, steps, guidance and sampler.

    Raises: NumbersError where a picture is not finite.
    """
    import torch

    found: dict[int, Image] = {}
    with torch.no_grad(), _at_work(model, shots, batch) as device:  # inference mode would mark weights that move
        for group in _groups(shots, batch):
            picked = [shots[index] for index in group]
            latents = _draw(model, picked, objective, device)
            _require_finite(latents, picked)
            for index, latent in zip(group, latents, strict=True):
                found[index] = to_picture(model.decode_latents(latent[None])[0])
    return [found[index] for index in range(len(shots))]


def read_ahead(model: DiffusionModel, shots: Sequence[Shot], device: torch.device, *, batch: int = 1) -> None:
    """Read the prompts of shots now, so that `paint` with the same `batch` will need no text encoder for them."""
    import torch

    with torch.no_grad(), _autocast(model, device):
        for group in _groups(shots, batch):
            model.read_ahead(_unique_prompts([shots[index] for index in group]), device)


def _groups(shots: Sequence[Shot], batch: int) -> Iterator[list[int]]:
    """Indices of shots that can share a batch."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for index, shot in enumerate(shots):
        alike.setdefault((shot.size, shot.steps, shot.guidance, shot.scheduler), []).append(index)
    for members in alike.values():
        for start in range(0, len(members), batch):
            yield members[start : start + batch]


def _draw(
    model: DiffusionModel, shots: Sequence[Shot], objective: BoundObjective | None, device: torch.device
) -> Tensor:
    """Latents of shots alike in size, steps, guidance and sampler, (B, C, h, w) float32."""
    import torch

    from .objectives.base import is_flow

    first = shots[0]
    guided = first.guidance > 1
    prompts = _prompts(shots)
    x_t = torch.stack([start_noise(model, shot) for shot in shots]).to(device)
    h, w = x_t.shape[-2:]
    steps = sampler(model.scheduler, first.scheduler, {} if objective is None else objective.sampling_at(h, w))
    set_timesteps(steps, first.steps, (h, w), device)
    flow = is_flow(model.scheduler)  # whose scheduler scales neither the first noise nor what the denoiser sees
    if not flow:
        x_t = x_t * steps.init_noise_sigma  # type: ignore[attr-defined]
    with _autocast(model, device):
        cond = _encode(model, prompts, device)
        for timestep in steps.timesteps:  # type: ignore[attr-defined]
            seen = x_t if flow else steps.scale_model_input(x_t, timestep)  # type: ignore[attr-defined]
            pair = torch.cat([seen, seen]) if guided else seen
            said = model.denoise(pair, timestep.expand(len(pair)).float(), cond).float()
            if guided:
                without, with_prompt = said.chunk(2)
                said = without + first.guidance * (with_prompt - without)  # Ho & Salimans 2022
            x_t = steps.step(said, timestep, x_t, return_dict=False)[0]  # type: ignore[attr-defined]
    return x_t


def start_noise(model: DiffusionModel, shot: Shot) -> Tensor:
    """The noise a shot starts from, (C, h, w) float32 on the CPU."""
    import torch

    width, height = shot.size
    shape = (model.channels, height // model.factor, width // model.factor)
    return torch.from_numpy(Draws(shot.seed).normal(shape, "sample"))


def _autocast(model: DiffusionModel, device: torch.device) -> torch.autocast:
    """Compute in the denoiser's own type where that has 16 bits."""
    import torch

    dtype = model.compute or next(model.denoiser.parameters()).dtype
    low = dtype.itemsize < 4
    return torch.autocast(device.type, dtype=dtype if low else torch.bfloat16, enabled=low)


def _prompts(shots: Sequence[Shot]) -> list[str]:
    """What is read for shots that are alike: what they shall not show, where they are guided, then what they show."""
    guided = shots[0].guidance > 1
    return [shot.negative for shot in shots] * guided + [shot.prompt for shot in shots]


def _unique_prompts(shots: Sequence[Shot]) -> list[str]:
    return list(dict.fromkeys(_prompts(shots)))


def _encode(model: DiffusionModel, prompts: Sequence[str], device: torch.device) -> Cond:
    unique = list(dict.fromkeys(prompts))
    found = model.read(unique, device)
    rows = [unique.index(prompt) for prompt in prompts]
    return Cond({name: value[rows] for name, value in found.tensors.items()})


def _require_finite(latents: Tensor, shots: Sequence[Shot]) -> None:
    bad = [shot.prompt for shot, latent in zip(shots, latents, strict=True) if not latent.isfinite().all()]
    if bad:
        raise NumbersError(
            f"the picture of {bad[0]!r} came out as NaN or infinity",
            "use train.precision: bf16 or fp32; if training did this, lower train.lr",
        )


def to_picture(pixels: Tensor) -> Image:
    """(3, H, W) in [-1, 1] -> an 8-bit RGB picture."""
    from PIL import Image

    values = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


@contextmanager
def _at_work(model: DiffusionModel, shots: Sequence[Shot], batch: int) -> Iterator[torch.device]:
    """Within it every module that the shots need is on the denoiser's device and in eval mode."""
    device = next(model.denoiser.parameters()).device
    with _autocast(model, device):
        groups = [[shots[index] for index in group] for group in _groups(shots, batch)]
        known = all(model.remembers(_unique_prompts(group), device) for group in groups)
    needed = {name: m for name, m in model.components.items() if not (known and name in model.text_encoders)}
    modes = [(part, part.training) for module in needed.values() for part in module.modules()]
    try:
        with model.at_hand(needed, device):
            for module in needed.values():
                module.eval()
            yield device
    finally:
        for part, training in modes:
            part.training = training
