"""Diffusion-DPO against eq. 14 of Wallace et al. 2023 written out in float64: loss, accuracy, every LoRA gradient."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch.func import functional_call

from tuner.adapters.lora import LoRA
from tuner.backbones.base import device_of
from tuner.data.sources import PairSource
from tuner.draws import Draws
from tuner.loop import accumulate
from tuner.objectives.ddpm import DDPM
from tuner.objectives.rectified_flow import RectifiedFlow
from tuner.processes import Processes
from tuner.sections import Train
from tuner.student import Student
from tuner.tasks.dpo import DPO
from tuner.training import Training
from tuner.types import Batch, Cond

RANK, ALPHA, PAIRS = 4, 8.0, 4
CPU = torch.device("cpu")
DATA = {"pairs": (PairSource(path="x"),)}
ROLES = DPO().roles(DATA)
SHARE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


@pytest.fixture(scope="module")
def pretrained():
    """Both kinds of denoiser in float64, tiny, by the objective that goes with them."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=6, out_channels=4,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return {"unet": unet.double().eval(), "transformer": transformer.double().eval()}


class Model:
    """As much of a DiffusionModel as LoRA and a student ask for."""

    def __init__(self, name, denoiser):
        from tuner.backbones.sd15 import SD15
        from tuner.backbones.sd35 import SD35

        self.denoiser_name, self.denoiser, self.text_encoders = name, denoiser.requires_grad_(False), {}
        self.backbone = SD15(model="toybox") if name == "unet" else SD35(model="toybox")

    def varied(self, seed):
        return contextlib.nullcontext()

    def denoise(self, x_t, timestep, cond):
        return said(self.denoiser_name, self.denoiser, {}, x_t, timestep, cond)


def said(name, denoiser, weights, x_t, timestep, cond):
    """What a denoiser predicts with some of its weights replaced."""
    if name == "unet":
        return functional_call(denoiser, weights, (x_t, timestep, cond["text"])).sample
    named = {"encoder_hidden_states": cond["text"], "pooled_projections": cond["pooled"], "timestep": timestep}
    return functional_call(denoiser, weights, (x_t,), named).sample


def taught(name, base):
    """A copy with a LoRA that has already learned something: at its start the margin is zero."""
    model = Model(name, copy.deepcopy(base))
    attachment = LoRA(rank=RANK, alpha=ALPHA).attach(model, keep_base=True, draws=Draws(0))
    generator = torch.Generator().manual_seed(1)
    for group in attachment.param_groups():
        for p in group.params.values():
            p.data = 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model, attachment


def make_batch(seed=3):
    """Different pictures, the same text, noise and level in both blocks."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    twice = lambda tensor: torch.cat([tensor, tensor])  # noqa: E731
    draws = {"noise": twice(normal(PAIRS, 4, 8, 8)), "level": twice(torch.rand(PAIRS, generator=generator).double())}
    text = Cond({"text": twice(normal(PAIRS, 7, 12)), "pooled": twice(normal(PAIRS, 6))})
    return Batch(normal(2 * PAIRS, 4, 8, 8), draws, text, twice(SHARE), ROLES)


def ours(model, attachment, objective, task, batches):
    bound = objective.bind(SCHEDULERS[model.denoiser_name], CPU)
    student = Student(model, [attachment], bound)
    training = Training.of([attachment], Train(steps=1), CPU, task.logged(ROLES), scaled=False)
    sums = accumulate(student, task, training, batches, step=0, draws=Draws(0), processes=Processes())
    grads = {}
    for group in attachment.param_groups():
        for name, p in group.params.items():
            grads[name], p.grad = p.grad.clone(), None
    return sums, grads


SCHEDULERS = {
    "unet": {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
             "beta_end": 0.012, "num_train_timesteps": 1000},
    "transformer": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
}  # fmt: skip


def corrupted(objective, batch):
    """x_t, timestep, target and the objective's weight, by the published formulas."""
    x_0, noise, level = batch.latents, batch.draws["noise"], batch.draws["level"]
    if isinstance(objective, RectifiedFlow):
        normal = torch.special.ndtri(level)
        sigma = torch.sigmoid(normal)
        sigma = 3 * sigma / (1 + 2 * sigma)
        s = sigma.view(-1, 1, 1, 1)
        return (1 - s) * x_0 + s * noise, 1000 * sigma, noise - x_0, torch.ones_like(sigma)
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0).double()
    t = (level * 1000).long()
    power = alpha_bar[t]
    a, s = power.sqrt().view(-1, 1, 1, 1), (1 - power).sqrt().view(-1, 1, 1, 1)
    target = a * noise - s * x_0 if objective.prediction == "v" else noise
    weight = torch.ones_like(power)
    if objective.min_snr_gamma:
        snr = power / (1 - power)
        weight = snr.clamp(max=objective.min_snr_gamma) / (snr + 1 if objective.prediction == "v" else snr)
    return a * x_0 + s * noise, t.double(), target, weight


def plain(model, attachment, base, objective, task, batch):
    """The model as it was, and one with W + alpha / r B A: -log sigmoid(-beta/2 (e_w - e'_w - (e_l - e'_l)))."""
    factors = {name: p.detach().clone().requires_grad_() for name, p in attachment.state_dict().items()}
    merged = {}
    for name in factors:
        if name.endswith("lora_A.weight"):
            layer = name.removeprefix(f"{model.denoiser_name}.").removesuffix(".lora_A.weight")
            down, up = factors[name], factors[name.replace("lora_A", "lora_B")]
            merged[f"{layer}.weight"] = base.get_submodule(layer).weight.detach() + ALPHA / RANK * up @ down
    x_t, t, target, omega = corrupted(objective, batch)
    errors = []
    for weights in (merged, {}):
        prediction = said(model.denoiser_name, base, weights, x_t, t, batch.text)
        errors.append(omega * (prediction - target).pow(2).mean(dim=(1, 2, 3)))
    (win, lose), (win_0, lose_0) = (e.chunk(2) for e in errors)
    inside = -task.beta / 2 * ((win - win_0) - (lose - lose_0))
    loss = -(SHARE * torch.log(torch.sigmoid(inside))).sum()
    loss.backward()
    facts = {
        "loss": loss.detach(),
        "accuracy": (SHARE * (inside > 0)).sum(),
        "loss_chosen": (SHARE * win).sum().detach(),
        "loss_rejected": (SHARE * lose).sum().detach(),
    }
    return facts, {name: p.grad for name, p in factors.items()}


CASES = {
    "epsilon": ("unet", DDPM(prediction="epsilon"), 40.0),
    "v": ("unet", DDPM(prediction="v"), 40.0),
    "v, min-SNR": ("unet", DDPM(prediction="v", min_snr_gamma=5), 40.0),
    "velocity": ("transformer", RectifiedFlow(), 40.0),
    "velocity, beta of the paper": ("transformer", RectifiedFlow(), 2000.0),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_accuracy_and_gradients_equal_the_formula(case, pretrained):
    name, objective, beta = CASES[case]
    model, attachment = taught(name, pretrained[name])
    task, batch = DPO(beta=beta), make_batch()
    sums, grads = ours(model, attachment, objective, task, [batch])
    expected, expected_grads = plain(model, attachment, copy.deepcopy(pretrained[name]), objective, task, batch)
    for key, value in expected.items():
        assert float(sums[key]) == pytest.approx(float(value), rel=1e-6), key  # the logged sums are float32
    assert grads.keys() == expected_grads.keys()
    largest = max(float(g.abs().max()) for g in expected_grads.values())
    assert largest > 1e-4, "a gradient of zero proves nothing"
    assert max(float((grads[n] - expected_grads[n]).abs().max()) for n in grads) < 1e-9 * max(1.0, largest)


@pytest.mark.parametrize("case", ["epsilon", "velocity"])
def test_four_micro_batches_of_one_pair_are_one_of_four(case, pretrained):
    name, objective, beta = CASES[case]
    model, attachment = taught(name, pretrained[name])
    task, batch = DPO(beta=beta), make_batch()
    whole_sums, whole = ours(model, attachment, objective, task, [batch])
    pieces = []
    for i in range(PAIRS):
        rows = torch.tensor([i, i + PAIRS])
        draws = {k: v[rows] for k, v in batch.draws.items()}
        text = Cond({k: v[rows] for k, v in batch.text.tensors.items()})
        pieces.append(Batch(batch.latents[rows], draws, text, batch.weight[rows], ROLES))
    sums, split = ours(model, attachment, objective, task, pieces)
    for key, value in whole_sums.items():
        assert float(sums[key]) == pytest.approx(float(value), rel=1e-6), key
    assert max(float((whole[n] - split[n]).abs().max()) for n in whole) < 1e-11


@pytest.mark.parametrize("name", ["unet", "transformer"])
def test_at_the_start_no_pair_is_told_apart(name, pretrained):
    """Loss log 2, accuracy 0: a fresh LoRA is the reference, bit for bit."""
    model = Model(name, copy.deepcopy(pretrained[name]))
    attachment = LoRA(rank=RANK).attach(model, keep_base=True, draws=Draws(0))
    for group in attachment.param_groups():
        for p in group.params.values():
            p.data = p.data.double()
    objective = DDPM(prediction="epsilon") if name == "unet" else RectifiedFlow()
    sums, _ = ours(model, attachment, objective, DPO(), [make_batch()])
    assert float(sums["loss"]) == pytest.approx(float(torch.log(torch.tensor(2.0))), rel=1e-6)
    assert float(sums["accuracy"]) == 0
    assert device_of(model.denoiser) == CPU


def test_swapping_the_pairs_turns_the_margin_round(pretrained):
    """loss(pairs) - loss(swapped pairs) is -beta / 2 times the margin, since -log sigmoid(x) + log sigmoid(-x) = -x."""
    name, objective, beta = CASES["epsilon"]
    model, attachment = taught(name, pretrained[name])
    batch = make_batch()
    turned = Batch(batch.latents.roll(PAIRS, 0), batch.draws, batch.text, batch.weight, ROLES)
    one, _ = ours(model, attachment, objective, DPO(beta=beta), [batch])
    other, _ = ours(model, attachment, objective, DPO(beta=beta), [turned])
    expected, _ = plain(model, attachment, copy.deepcopy(pretrained[name]), objective, DPO(beta=1e-9), batch)
    assert float(one["accuracy"] + other["accuracy"]) == pytest.approx(1)
    assert one["loss_chosen"] == pytest.approx(float(expected["loss_chosen"]), rel=1e-6)
    double, _ = ours(model, attachment, objective, DPO(beta=2 * beta), [batch])
    double_turned, _ = ours(model, attachment, objective, DPO(beta=2 * beta), [turned])
    assert float(double["loss"] - double_turned["loss"]) == pytest.approx(
        2 * float(one["loss"] - other["loss"]), rel=1e-4
    )
