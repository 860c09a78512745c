"""Rectified flow against the paper's formulas written out plainly in float64, and against diffusers where it means the
same thing."""

from __future__ import annotations

import copy
import math
from itertools import product
from statistics import NormalDist
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from tuner.objectives.flow_levels import (
    ConstantShift,
    CosMap,
    DynamicShift,
    LogitNormal,
    Mode,
    ResolutionShift,
    Uniform,
)
from tuner.objectives.flow_weights import CosMapWeighting, NoWeighting, SigmaSqrt
from tuner.objectives.rectified_flow import RectifiedFlow
from tuner.student import Student
from tuner.tasks.dreambooth import DreamBooth
from tuner.tasks.finetune import Finetune
from tuner.types import Batch, Cond, Role

CPU = torch.device("cpu")
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
UNITS, H, W = 4, 8, 12
IMAGES = (Role("images"),)

DENSITIES = {
    "logit_normal": ({"mean": -0.4, "std": 1.3}, lambda u: 1 / (1 + math.exp(0.4 - 1.3 * NormalDist().inv_cdf(u)))),
    "mode": (
        {"scale": 1.29},
        lambda u: 1 - (1 - u) - 1.29 * (math.cos(math.pi / 2 * (1 - u)) ** 2 - 1 + (1 - u)),
    ),
    "cosmap": ({}, lambda u: 1 - 1 / (math.tan(math.pi / 2 * u) + 1)),
    "uniform": ({}, lambda u: u),
}
"""The settings of each density, and its quantile as the paper's section 3.1 writes it."""

MU = 0.5 + (1.15 - 0.5) / (64 - 16) * (H // 2 * (W // 2) - 16)
SHIFTS = {
    "constant": ({"value": 3.0}, lambda t: 3 * t / (1 + 2 * t)),
    "resolution": (
        {"base_tokens": 6},
        lambda t: math.sqrt(24 / 6) * t / (1 + (math.sqrt(24 / 6) - 1) * t),
    ),
    "dynamic": (
        {"base_tokens": 16, "max_tokens": 64},
        lambda t: math.exp(MU) / (math.exp(MU) + (1 / t - 1)),
    ),
}
WEIGHTS = ["none", "sigma_sqrt", "cosmap", "x0"]
COMBINATIONS = [
    combination
    for combination in product(DENSITIES, SHIFTS, WEIGHTS)
    if combination[0] != "logit_normal" or combination[2] != "sigma_sqrt"
]


def objective(density, shift, weighting):
    levels, moved = {"name": density, **DENSITIES[density][0]}, {"name": shift, **SHIFTS[shift][0]}
    return RectifiedFlow.model_validate({"levels": levels, "shift": moved, "weighting": weighting})


def a_batch(roles=IMAGES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    count = UNITS * len(roles)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    draws = {"noise": normal(count, 16, H, W), "level": torch.rand(count, generator=generator, dtype=dtype)}
    text = Cond({"text": normal(count, 5, 32), "pooled": normal(count, 24)})
    share = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=dtype).repeat(len(roles))
    return Batch(normal(count, 16, H, W), draws, text, share, tuple(roles))


@pytest.fixture(scope="module")
def denoiser():
    """A small MMDiT in float64 that has something to say at every layer."""
    torch.manual_seed(0)
    made = SD3Transformer2DModel(
        sample_size=12, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=24, out_channels=16,
        pos_embed_max_size=12, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    for p in made.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    return made.double()


def student_of(denoiser, flow):
    def denoise(x_t, timestep, cond):
        return denoiser(
            x_t,
            timestep=timestep,
            encoder_hidden_states=cond["text"],
            pooled_projections=cond["pooled"],
            return_dict=False,
        )[0]

    return Student(SimpleNamespace(denoise=denoise), [], flow.bind(FLOW, CPU))


def plain_losses(denoiser, batch, density, shift, weighting):
    """The loss of each example, (B,): one path, one velocity, one weight, all written out."""
    losses = []
    for i, u in enumerate(batch.draws["level"].tolist()):
        sigma = SHIFTS[shift][1](DENSITIES[density][1](u))
        x_0, noise = batch.latents[i], batch.draws["noise"][i]
        x_t = (1 - sigma) * x_0 + sigma * noise
        said = denoiser(
            x_t[None],
            timestep=torch.tensor([1000 * sigma], dtype=torch.float64),
            encoder_hidden_states=batch.text["text"][i][None],
            pooled_projections=batch.text["pooled"][i][None],
        ).sample[0]
        velocity = (said - (noise - x_0)).square().mean()
        losses.append(
            {
                "none": velocity,
                "sigma_sqrt": velocity / max(sigma, 1e-3) ** 2,
                "cosmap": velocity * 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2)),
                "x0": ((x_t - sigma * said) - x_0).square().mean(),
            }[weighting]
        )
    return torch.stack(losses)


def gradients(denoiser, loss):
    named = dict(denoiser.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: grad for name, grad in zip(named, found, strict=True) if grad is not None}


def require_equal(denoiser, total, expected):
    ours, plain = gradients(denoiser, total), gradients(denoiser, expected)
    assert abs(total - expected) / abs(expected) < 1e-9
    assert ours.keys() == plain.keys()
    assert len(ours) > 50
    largest = max(float(grad.abs().max()) for grad in plain.values())
    assert largest > 1e-6, "a gradient of zero proves nothing"
    assert max(float((ours[name] - plain[name]).abs().max()) for name in plain) / largest < 1e-9


@pytest.mark.parametrize(("density", "shift", "weighting"), COMBINATIONS, ids=map("-".join, COMBINATIONS))
def test_loss_and_gradients_equal_the_formula(denoiser, density, shift, weighting):
    batch = a_batch()
    student = student_of(denoiser, objective(density, shift, weighting))
    expected = (plain_losses(denoiser, batch, density, shift, weighting) * batch.weight).sum()
    require_equal(denoiser, Finetune().loss(student, batch).total, expected)


def test_loss_and_gradients_with_a_prior(denoiser):
    batch = a_batch((Role("instance"), Role("prior")))
    student = student_of(denoiser, objective("mode", "dynamic", "cosmap"))
    each = plain_losses(denoiser, batch, "mode", "dynamic", "cosmap") * batch.weight
    total = DreamBooth(prior_weight=0.7).loss(student, batch).total
    require_equal(denoiser, total, each[:UNITS].sum() + 0.7 * each[UNITS:].sum())


@pytest.mark.parametrize("density", DENSITIES)
def test_the_velocity_error_is_the_epsilon_form_of_flow_matching(density):
    """Esser et al. 2024, sec. 2: with a = 1 - t, b = t and lambda = log(a^2 / b^2), the loss of flow matching is
    -1/2 w lambda' |eps_theta - eps|^2 at w = -1/2 lambda' b^2, where eps_theta = -2 / (lambda' b) (v - a' / a x_t)."""
    batch = a_batch()
    noised = objective(density, "constant", "none").bind(FLOW, CPU).corrupt(batch)
    velocity = torch.randn(batch.latents.shape, generator=torch.manual_seed(5), dtype=torch.float64)  # of any model
    t = (noised.timestep / 1000).requires_grad_()
    (rate,) = torch.autograd.grad((2 * torch.log((1 - t) / t)).sum(), t)  # lambda'
    t, rate = t.detach()[:, None, None, None], rate[:, None, None, None]
    a, b, a_rate = 1 - t, t, -1
    eps = -2 / (rate * b) * (velocity - a_rate / a * noised.x_t)
    weight = -0.5 * rate * b**2
    theirs = (-0.5 * weight * rate * (eps - batch.draws["noise"]).square()).flatten(1).mean(1)
    assert torch.allclose(noised.losses(velocity), theirs, rtol=1e-11, atol=0)
    assert torch.allclose(weight, t / (1 - t), rtol=1e-11), "the weight of rectified flow, sec. 3.1"


def pdf_logit_normal(t, m, s):
    return torch.exp(-((torch.logit(t) - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * t * (1 - t))


@pytest.mark.parametrize(
    ("density", "pdf"),
    [
        (LogitNormal(), lambda t: pdf_logit_normal(t, 0, 1)),
        (LogitNormal(mean=-0.5, std=1.4), lambda t: pdf_logit_normal(t, -0.5, 1.4)),
        (CosMap(), lambda t: 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2)),
        (Uniform(), torch.ones_like),
    ],
    ids=["logit_normal", "logit_normal moved", "cosmap", "uniform"],
)
def test_densities_are_those_of_the_paper(density, pdf):
    """Where the density is p and the quantile q, p(q(u)) q'(u) = 1."""
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64).requires_grad_()
    q = density.sigma(u)
    (slope,) = torch.autograd.grad(q.sum(), u)
    assert torch.allclose(pdf(q.detach()) * slope, torch.ones_like(slope), rtol=1e-9)


@pytest.mark.parametrize("scale", [-1.0, -0.3, 0.0, 0.81, 1.29, 1.75])
def test_mode_is_the_papers_density(scale):
    """Its density is |d/dt f^-1(t)|; f falls with u, so its quantile is f(1 - level)."""
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    f = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    assert torch.allclose(Mode(scale=scale).sigma(1 - u), f, atol=1e-14)
    assert (f.diff() < 0).all(), "where it does not fall it has no density"


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5)])
def test_logit_normal_draws_as_diffusers_does(mean, std):
    def seeded():
        return torch.Generator().manual_seed(1)

    theirs = compute_density_for_timestep_sampling("logit_normal", 1000, mean, std, generator=seeded())
    z = (torch.normal(mean=mean, std=std, size=(1000,), generator=seeded()).double() - mean) / std
    ours = LogitNormal(mean=mean, std=std).sigma(torch.special.ndtr(z))
    assert torch.allclose(ours.float(), theirs, atol=1e-6)


def test_mode_draws_as_diffusers_does_but_for_the_direction():
    """diffusers lets the level fall with the draw; ours rises. The density is the same, the order of draws is not."""
    theirs = compute_density_for_timestep_sampling("mode", 1000, mode_scale=1.29, generator=torch.manual_seed(1))
    u = torch.rand(1000, generator=torch.manual_seed(1))
    assert torch.allclose(Mode(scale=1.29).sigma(1 - u), theirs, atol=1e-6)
    assert theirs.sub(Mode(scale=1.29).sigma(u)).abs().max() > 0.5


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_a_table_of_diffusers_reads_levels_from_its_noisy_end(mean):
    """Its scripts take u x 1000 as an index into a table that falls from sigma 1, so the level is 1 - u, in steps of a
    thousandth before the shift: their logit_mean has the opposite sign of the paper's and of ours."""
    table = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0).sigmas
    u = torch.sigmoid(mean + torch.randn(4000, generator=torch.manual_seed(2)))
    theirs = table[(u * 1000).long()]
    level = torch.special.ndtr(-(torch.logit(u) - mean).double())  # the draw that gives ours the same level
    ours = ConstantShift(value=3.0).apply(LogitNormal(mean=-mean).sigma(level), 2, 2)
    gap = theirs - ours
    assert gap.min() > -1e-6
    assert gap.max() < 3.01e-3, "one step of the table, stretched by the shift"
    if mean:
        same_sign = ConstantShift(value=3.0).apply(LogitNormal(mean=mean).sigma(level), 2, 2)
        assert (theirs - same_sign).abs().mean() > 0.2


def test_weights_equal_those_of_diffusers():
    sigma = torch.linspace(0.002, 0.999, 500, dtype=torch.float64)
    for name, ours in {"none": NoWeighting(), "cosmap": CosMapWeighting(), "sigma_sqrt": SigmaSqrt()}.items():
        theirs = compute_loss_weighting_for_sd3(name, sigma)
        assert torch.allclose(ours.weight(sigma).float(), theirs.float(), rtol=1e-6)
    assert SigmaSqrt().weight(torch.tensor(1e-7)) == pytest.approx(1e6), "theirs has no end but that of its table"


def test_cosmap_levels_and_cosmap_weights_are_one_loss():
    """On unshifted levels the mean of any error is the same whether cosmap is drawn or weighed; so choose one."""
    level = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    error = torch.sin  # of any model
    drawn = error(3 * CosMap().sigma(level)).mean()
    weighed = (error(3 * level) * CosMapWeighting().weight(level)).mean()
    assert drawn == pytest.approx(float(weighed), rel=1e-6)


def test_the_constant_shift_is_the_schedulers():
    table = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0).sigmas
    ours = ConstantShift(value=3.0).apply(torch.linspace(1, 0.001, 1000, dtype=torch.float64), 64, 64)
    assert torch.allclose(ours.float(), table, atol=1e-6)


@pytest.mark.parametrize("px", [(1024, 1024), (512, 512), (832, 1216), (1440, 1440), (1040, 1008)])
def test_the_dynamic_shift_is_the_pipelines(px):
    shift = DynamicShift()
    h, w = px[0] // 8, px[1] // 8
    theirs = FlowMatchEulerDiscreteScheduler.from_config({**FLOW, **shift.sampling()})
    theirs.set_timesteps(50, mu=calculate_shift((h // 2) * (w // 2)))
    ours = shift.apply(torch.linspace(1, 0.001, 50, dtype=torch.float64), h, w)
    assert torch.allclose(ours.float(), theirs.sigmas[:-1], atol=1e-6)
    assert torch.allclose(1000 * ours.float(), theirs.timesteps, atol=1e-3)


def test_the_resolution_shift_is_four_at_1024_px_against_256():
    assert ResolutionShift().factor(128, 128) == 4.0
    assert ResolutionShift(base_tokens=1024).factor(128, 128) == 2.0, "against 512 px"
    assert ResolutionShift().factor(64, 256) == 4.0, "by area, whatever the shape"


def test_levels_stay_float32_and_whole_under_bf16_latents():
    """Trap 25: of a thousand timesteps bf16 tells 507 apart, and it makes 1000 of 999."""
    flow = RectifiedFlow().bind(FLOW, CPU)
    full = a_batch(dtype=torch.float32)
    low = Batch(full.latents.bfloat16(), full.draws, full.text, full.weight, full.roles)
    rounded = Batch(low.latents.float(), full.draws, full.text, full.weight, full.roles)
    ours, expected = flow.corrupt(low), flow.corrupt(rounded)
    for name in ("x_t", "timestep", "target", "weight"):
        found = getattr(ours, name)
        assert found.dtype == torch.float32
        assert torch.equal(found, getattr(expected, name))
    assert torch.equal(flow.corrupt(full).timestep, ours.timestep), "levels do not depend on the picture"
    assert torch.equal(flow.corrupt(full).x_t, flow.corrupt(copy.deepcopy(full)).x_t), "nor on anything but the batch"


@pytest.mark.parametrize(("density", "shift", "weighting"), COMBINATIONS, ids=map("-".join, COMBINATIONS))
def test_no_value_is_asked_back_from_the_device(density, shift, weighting):
    """Tensors without values stand in for a device: whatever waits for a number of theirs fails."""
    batch = a_batch(dtype=torch.float32).to(torch.device("meta"))
    noised = objective(density, shift, weighting).bind(FLOW, CPU).corrupt(batch)
    assert noised.x_t.shape == batch.latents.shape
    assert noised.weight.shape == (UNITS,)
