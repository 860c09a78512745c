"""One training step against the published formulas written out plainly, in float64: loss and every LoRA gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call

from tuner.adapters.lora import LoRA
from tuner.backbones.sd15 import SD15
from tuner.data.sources import PriorSource, Source
from tuner.draws import Draws
from tuner.loop import accumulate
from tuner.objectives.ddpm import DDPM
from tuner.optim.optimizers import AdamW
from tuner.processes import Processes
from tuner.sections import Train
from tuner.student import Student
from tuner.tasks.dreambooth import DreamBooth
from tuner.tasks.finetune import Finetune
from tuner.training import Training
from tuner.types import Batch, Cond, Role

RANK, ALPHA, UNITS = 4, 8.0, 4
INSTANCE = {"instance": (Source(path="x"),)}
PRIOR = INSTANCE | {"prior": (PriorSource(path="y"),)}
PREDICTED = INSTANCE | {"prior": (PriorSource(predict=True, caption="a dog"),)}


@pytest.fixture(scope="module")
def pretrained():
    model = SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)
    model.denoiser.double()
    return model


@pytest.fixture
def taught(pretrained):
    """A model with an adapter that has already learned something: with B at zero, A has no gradient."""
    model = copy.copy(pretrained)
    model.denoiser = copy.deepcopy(pretrained.denoiser)
    attachment = LoRA(rank=RANK, alpha=ALPHA).attach(model, keep_base=True, draws=Draws(0))
    generator = torch.Generator().manual_seed(1)
    for group in attachment.param_groups():
        for p in group.params.values():
            p.data = 0.05 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model, attachment


def make_batch(model, objective, roles, seed=3):
    """Random float64 latents and draws; a mirrored role repeats its picture, noise and level."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for role in roles:
        if role.mirrors:
            blocks.append(
                {k: v for k, v in blocks[0].items() if k != "text"}
                | {
                    "text": torch.randn(
                        UNITS, 77, model.denoiser.config.cross_attention_dim, generator=generator, dtype=torch.float64
                    )
                }
            )
            continue
        shape = (UNITS, 4, 16, 16)
        block = {"latents": torch.randn(shape, generator=generator, dtype=torch.float64)}
        for name, draw in objective.needs().items():
            full = {"latent": shape, "channel": (UNITS, 4, 1, 1), "scalar": (UNITS,)}[draw.shape]
            make = torch.randn if draw.kind == "normal" else torch.rand
            block[name] = make(full, generator=generator, dtype=torch.float64)
        block["text"] = torch.randn(
            UNITS, 77, model.denoiser.config.cross_attention_dim, generator=generator, dtype=torch.float64
        )
        blocks.append(block)
    joined = {key: torch.cat([block[key] for block in blocks]) for key in blocks[0]}
    text = Cond({"text": joined.pop("text")})
    latents = joined.pop("latents")
    share = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    return Batch(latents, joined, text, share.repeat(len(roles)), tuple(roles))


def ours(model, attachment, objective, task, batches):
    bound = objective.bind(model.scheduler, torch.device("cpu"))
    student = Student(model, [attachment], bound)
    groups = attachment.param_groups()
    training = Training.of(
        [attachment],
        Train(steps=1, optimizer=AdamW()),
        torch.device("cpu"),
        task.logged(batches[0].roles),
        scaled=False,
    )
    sums = accumulate(student, task, training, batches, step=0, draws=Draws(0), processes=Processes())
    grads = {name: p.grad.clone() for group in groups for name, p in group.params.items()}
    for group in groups:
        for p in group.params.values():
            p.grad = None
    return sums["loss"].double(), grads


def plain(model, attachment, base, objective, task, batch):
    """Weights W + alpha / r B A put into an untouched UNet; Ho et al. 2020 eq. 4, 14; Ruiz et al. 2022 eq. 2."""
    factors = {name: p.detach().clone().requires_grad_() for name, p in attachment.state_dict().items()}
    merged = {}
    for name in factors:
        if name.endswith("lora_A.weight"):
            layer = name.removeprefix("unet.").removesuffix(".lora_A.weight")
            down, up = factors[name], factors[name.replace("lora_A", "lora_B")]
            merged[f"{layer}.weight"] = base.get_submodule(layer).weight.detach() + ALPHA / RANK * up @ down
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0).double()
    t = (batch.draws["level"] * 1000).long()
    a = alpha_bar[t].sqrt().view(-1, 1, 1, 1)
    s = (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
    noise = batch.draws["noise"]
    if objective.noise_offset:
        noise = noise + objective.noise_offset * batch.draws["offset"]
    v = objective.prediction == "v"
    target = a * noise - s * batch.latents if v else noise
    seen = noise + objective.input_perturbation * batch.draws["perturbation"] if objective.input_perturbation else noise
    x_t = a * batch.latents + s * seen
    prediction = functional_call(base, merged, (x_t, t.float(), batch.text["text"])).sample
    snr = alpha_bar[t] / (1 - alpha_bar[t])
    weight = torch.ones_like(snr)
    if objective.min_snr_gamma:
        weight = torch.minimum(snr, torch.full_like(snr, objective.min_snr_gamma)) / (snr + 1 if v else snr)
    if any(role.mirrors for role in batch.roles):
        with torch.no_grad():
            kept = base(x_t, t.float(), batch.text["text"]).sample
        target = torch.cat([target[:UNITS], kept[UNITS:]])
    each = weight * (prediction - target).pow(2).mean(dim=(1, 2, 3)) * batch.weight
    loss = each[:UNITS].sum() + getattr(task, "prior_weight", 1.0) * each[UNITS:].sum()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in factors.items()}


CASES = {
    "plain": (DDPM(), Finetune(), {"images": (Source(path="x"),)}),
    "prior": (DDPM(), DreamBooth(prior_weight=0.7), PRIOR),
    "no prior": (DDPM(), DreamBooth(), INSTANCE),
    "prior by prediction": (DDPM(), DreamBooth(prior_weight=1.3), PREDICTED),
    "min-SNR epsilon": (DDPM(min_snr_gamma=5, prediction="epsilon"), Finetune(), {"images": (Source(path="x"),)}),
    "min-SNR v": (DDPM(min_snr_gamma=5, prediction="v"), Finetune(), {"images": (Source(path="x"),)}),
    "min-SNR v, prior": (DDPM(min_snr_gamma=5, prediction="v"), DreamBooth(prior_weight=0.5), PRIOR),
    "noise offset": (DDPM(noise_offset=0.1), Finetune(), {"images": (Source(path="x"),)}),
    "input perturbation": (DDPM(input_perturbation=0.1), Finetune(), {"images": (Source(path="x"),)}),
    "all of it": (DDPM(noise_offset=0.05, input_perturbation=0.1, min_snr_gamma=2), DreamBooth(), PREDICTED),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_the_formula(case, pretrained, taught):
    objective, task, data = CASES[case]
    model, attachment = taught
    batch = make_batch(model, objective, task.roles(data))
    loss, grads = ours(model, attachment, objective, task, [batch])
    expected, expected_grads = plain(model, attachment, copy.deepcopy(pretrained.denoiser), objective, task, batch)
    assert abs(loss - expected) < 1e-6  # the logged sum is float32
    assert grads.keys() == expected_grads.keys()
    assert len(grads) > 0
    worst = max(float((grads[n] - expected_grads[n]).abs().max()) for n in grads)
    largest = max(float(g.abs().max()) for g in expected_grads.values())
    assert largest > 1e-6, "a gradient of zero proves nothing"
    assert worst < 1e-9


def split(batch, size):
    """A role-major batch of UNITS units in pieces of `size` units."""
    pieces = []
    roles = len(batch.roles)
    for start in range(0, UNITS, size):
        rows = torch.cat([torch.arange(start, start + size) + r * UNITS for r in range(roles)])
        pieces.append(
            Batch(
                batch.latents[rows],
                {k: v[rows] for k, v in batch.draws.items()},
                Cond({k: v[rows] for k, v in batch.text.tensors.items()}),
                batch.weight[rows],
                batch.roles,
            )
        )
    return pieces


@pytest.mark.parametrize("case", ["plain", "prior", "prior by prediction"])
def test_accumulation_changes_nothing(case, taught):
    """Four micro-batches of one unit add up to one of four."""
    objective, task, data = CASES[case]
    model, attachment = taught
    batch = make_batch(model, objective, task.roles(data))
    whole_loss, whole = ours(model, attachment, objective, task, [batch])
    split_loss, pieces = ours(model, attachment, objective, task, split(batch, 1))
    assert abs(whole_loss - split_loss) < 1e-6
    assert max(float((whole[n] - pieces[n]).abs().max()) for n in whole) < 1e-9


def test_min_snr_of_an_older_loop_would_fail(taught):
    """Adding 1 to the SNR before the minimum, as an older published loop does for v, is another weight."""
    model, _ = taught
    bound = DDPM(min_snr_gamma=5, prediction="v").bind(model.scheduler, torch.device("cpu"))
    power = bound.alpha_bar
    snr = power / (1 - power)
    wrong = (snr + 1).clamp(max=5) / snr.clamp(max=5)
    assert (bound.weight(power) - wrong).abs().max() > 0.1
    for t, value in {10: 0.048, 200: 0.754, 500: 0.276, 900: 0.014}.items():
        assert bound.weight(power)[t] == pytest.approx(value, abs=6e-4)


def test_roles_are_role_major():
    roles = (Role("instance"), Role("prior"))
    batch = Batch(torch.zeros(4, 1, 1, 1), {}, Cond({}), torch.tensor([1.0, 2, 3, 4]), roles)
    assert {k: v.tolist() for k, v in batch.by_role(batch.weight).items()} == {"instance": [1, 2], "prior": [3, 4]}
