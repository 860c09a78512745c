"""The validation loss against its formula written out, for both objectives; and what measuring leaves untouched."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from tuner.adapters import Adapter
from tuner.best import LEVELS
from tuner.data.batches import Recital
from tuner.data.held_out import HeldOut
from tuner.data.scan import Example
from tuner.draws import Draws
from tuner.objectives import Objective
from tuner.optim.ema import Average
from tuner.student import Student
from tuner.types import Cond, Posterior
from tuner.validation import Validator

SEED = 5
SIZES = {"a": (8, 8), "b": (8, 4), "c": (4, 8)}
"""Latents (w, h) of each held-out picture, by uid."""
OBJECTIVES = {
    "epsilon": {"name": "ddpm", "prediction": "epsilon"},
    "epsilon, weighed": {"name": "ddpm", "prediction": "epsilon", "min_snr_gamma": 5.0, "noise_offset": 0.1},
    "v": {"name": "ddpm", "prediction": "v"},
    "flow": {"name": "rectified_flow"},
    "flow, weighed": {
        "name": "rectified_flow",
        "levels": "uniform",
        "weighting": "cosmap",
        "shift": {"name": "constant", "value": 2.0},
    },
}


class Pictures:
    """Posteriors of our own, in place of a cache."""

    def __init__(self, channels: int) -> None:
        self.known = {}
        for number, (uid, (w, h)) in enumerate(SIZES.items()):
            generator = np.random.default_rng(number)
            mean, logvar = generator.standard_normal((2, channels, h, w)).astype(np.float32)
            self.known[uid] = torch.from_numpy(mean), torch.from_numpy(logvar - 3)

    def posteriors(self, looks) -> Posterior:
        (look,) = looks
        assert look.flip is False
        mean, logvar = self.known[look.example.uid]
        return Posterior(mean[None], logvar[None])


def example(uid: str) -> Example:
    return Example(uid, uid * 64, f"{uid}.png", "validation", (64, 64), (f"a photo of {uid}",), 1, 1.0, bytes, "recipe")


class Case:
    """A model with a LoRA whose dropout is on, and a validator of three pictures."""

    def __init__(self, model: Any, objective: dict[str, Any], *, rows: int = LEVELS, averaged: bool = False) -> None:
        self.model = model
        for module in model.components.values():
            module.requires_grad_(requires_grad=False).eval()
        adapter = Adapter.read({"name": "lora", "rank": 2, "dropout": 0.5})
        attachment = adapter.attach(model, keep_base=False, draws=Draws(0))
        attachment.train(on=True)
        self.live = {name: p for group in attachment.param_groups() for name, p in group.params.items()}
        generator = np.random.default_rng(9)
        with torch.no_grad():
            for p in self.live.values():
                p.copy_(torch.from_numpy(generator.standard_normal(tuple(p.shape)).astype(np.float32) * 0.05))
        own = Objective.read(objective)
        bound = own.bind(model.scheduler, torch.device("cpu"))
        self.student = Student(model, [attachment], bound)
        average = Average(self.live, decay=0.9, every=1) if averaged else None
        self.training: Any = SimpleNamespace(attachments=[attachment], average=average)
        pictures = Pictures(model.channels)
        held = HeldOut([example(uid) for uid in SIZES], SIZES, pictures, self.texts, Recital(0.0, {}))
        self.validator = Validator(held, own.needs(), Draws(SEED), torch.device("cpu"), rows)
        self.pictures = pictures

    def texts(self, captions) -> Cond:
        with torch.no_grad():
            return self.model.encode_text(self.model.tokenize(captions))

    def measure(self):
        return self.validator.measure(self.student, self.training)


def one_normal(shape, purpose, *ids):
    return torch.from_numpy(Draws(SEED).normal(tuple(shape), purpose, *ids))


def plain(case: Case, objective: dict[str, Any]) -> list[list[float]]:
    """The loss of each picture at each level, straight down, without dropout."""
    case.student.attachments[0].train(on=False)
    table: list[list[float]] = []
    for uid in SIZES:
        ids = ("validation", uid)
        mean, logvar = case.pictures.known[uid]
        x_0 = mean + torch.exp(logvar / 2) * one_normal(mean.shape, "posterior", *ids)
        noise = one_normal(mean.shape, "noise", *ids)
        if objective.get("noise_offset"):
            noise = noise + objective["noise_offset"] * one_normal((mean.shape[0], 1, 1), "offset", *ids)
        row = []
        for k in range(8):
            u = (k + 0.5) / 8
            x_t, timestep, target = point(case, objective, x_0, noise, u)
            with torch.no_grad():
                said = case.model.denoise(x_t[None], torch.tensor([timestep]), case.texts([f"a photo of {uid}"]))[0]
            row.append(((said - target) ** 2).mean().item())
        table.append(row)
    case.student.attachments[0].train(on=True)
    return table


def point(case: Case, objective: dict[str, Any], x_0, noise, u: float):
    """x_t, timestep and target at one level, by diffusers' scheduler or by the paper's formula."""
    if objective["name"] == "ddpm":
        scheduler: Any = DDPMScheduler.from_config(dict(case.model.scheduler))
        timestep = torch.tensor([int(u * 1000)])
        x_t = scheduler.add_noise(x_0[None], noise[None], timestep)[0]
        target = noise
        if objective["prediction"] == "v":
            target = scheduler.get_velocity(x_0[None], noise[None], timestep)[0]
        return x_t, float(timestep), target
    t = torch.sigmoid(torch.special.ndtri(torch.tensor(u))) if "levels" not in objective else torch.tensor(u)
    shift = objective["shift"]["value"] if "shift" in objective else 3.0
    sigma = shift * t / (1 + (shift - 1) * t)
    return (1 - sigma) * x_0 + sigma * noise, float(1000 * sigma), noise - x_0


@pytest.fixture
def model_for(request):
    def load(objective):
        return request.getfixturevalue("sd15_model" if objective["name"] == "ddpm" else "sd35_model")

    return load


@pytest.mark.parametrize(("name", "rows"), [*((name, LEVELS) for name in OBJECTIVES), ("v", 3), ("flow", 1)])
def test_values_are_those_of_the_formula(name, rows, model_for):
    objective = OBJECTIVES[name]
    case = Case(model_for(objective), objective, rows=rows)
    found = case.measure()
    table = np.array(plain(case, objective))
    np.testing.assert_allclose(found.levels, table.mean(0), rtol=2e-5)
    assert found.loss == pytest.approx(table.mean(), rel=2e-5)
    assert table.std(0).min() > 1e-4  # no two pictures and no two levels alike, or a mix-up would pass
    assert len({round(level, 5) for level in found.levels}) == 8
    assert found.metrics() == {
        "validation_loss": found.loss,
        **{f"validation_loss/level_{k}": level for k, level in enumerate(found.levels)},
    }


def test_measuring_leaves_no_trace(sd15_model):
    """Generators, weights, modes and gradients are as they were, bit for bit; and it gives the same value again."""
    case = Case(sd15_model, OBJECTIVES["epsilon"], averaged=True)
    attachment = case.student.attachments[0]
    modules = [*case.model.denoiser.modules(), *(m for e in case.model.text_encoders.values() for m in e.modules())]

    def state():
        return (
            [m.training for m in modules],
            [p.detach().clone() for p in case.live.values()],
            [t.clone() for t in case.training.average.tensors.values()],
            [p.requires_grad for p in case.live.values()],
            torch.random.get_rng_state(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
        )

    assert any(m.training for m in modules)  # dropout is on
    torch.manual_seed(3)
    before, first = state(), case.measure()
    after = state()
    for old, new in zip(before, after, strict=True):
        if isinstance(old, list) and isinstance(old[0], torch.Tensor):
            assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
        elif isinstance(old, torch.Tensor):
            assert torch.equal(old, new)
        else:
            assert old == new
    assert all(p.grad is None for p in case.live.values())
    torch.manual_seed(4)
    assert case.measure() == first
    attachment.train(on=True)


def test_the_average_is_what_is_measured(sd15_model):
    """With an average of the weights the value is the average's, not the raw weights'."""
    case = Case(sd15_model, OBJECTIVES["epsilon"], averaged=True)
    generator = np.random.default_rng(2)
    for tensor in case.training.average.tensors.values():
        tensor.add_(torch.from_numpy(generator.standard_normal(tuple(tensor.shape)).astype(np.float32) * 0.1))
    averaged = case.measure()
    average, case.training.average = case.training.average, None
    raw = case.measure()
    with torch.no_grad():
        for name, p in case.live.items():
            p.copy_(average.tensors[name])
    assert case.measure() == averaged
    assert abs(raw.loss - averaged.loss) > 1e-6
    assert case.validator.facts(weights="ema") != case.validator.facts(weights="raw")


def test_another_seed_or_picture_is_another_measurement(sd15_model):
    case = Case(sd15_model, OBJECTIVES["epsilon"])
    first, facts = case.measure(), case.validator.facts(weights="raw")
    object.__setattr__(case.validator, "draws", Draws(SEED + 1))
    assert case.measure().loss != first.loss
    assert case.validator.facts(weights="raw") != facts
    object.__setattr__(case.validator, "draws", Draws(SEED))
    held = case.validator.held_out
    fewer = HeldOut(held.examples[:2], held.sizes, held.pictures, held.texts, held.recital)
    object.__setattr__(case.validator, "held_out", fewer)
    assert case.validator.facts(weights="raw") != facts
    shuffled = HeldOut(held.examples[::-1], held.sizes, held.pictures, held.texts, held.recital)
    object.__setattr__(case.validator, "held_out", shuffled)
    assert case.validator.facts(weights="raw") == facts
