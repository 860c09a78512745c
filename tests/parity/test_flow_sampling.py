"""A flow drawn by `paint` against diffusers' own pipeline, and against a flow whose end is known."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from tuner.backbones.base import DiffusionModel
from tuner.errors import UsageError
from tuner.objectives import Objective
from tuner.sampling import FLOW_SCHEDULERS, SCHEDULERS, Shot, choose, paint, sampler, set_timesteps, start_noise
from tuner.types import Cond, Tokens

CPU = torch.device("cpu")
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
SHIFTS = {
    "the base's own": None,
    "none": {"name": "constant", "value": 1.0},
    "resolution": {"name": "resolution"},
    "dynamic": {"name": "dynamic", "base_tokens": 4, "max_tokens": 64},
}


class KnownFlow(DiffusionModel):
    """A stand-in whose velocity points at one picture from everywhere, so that Euler steps of any size end there."""

    factor, channels, scheduler, denoiser_name = 8, 3, FLOW, "transformer"
    text_encoders, tokenizers = {}, {}

    def __init__(self):
        self.denoiser, self.vae = nn.Linear(1, 1), nn.Linear(1, 1)
        self.goal = torch.rand(3, 6, 9, generator=torch.manual_seed(0)) * 2 - 1
        self.seen: list[float] = []

    def tokenize(self, prompts):
        return Tokens({"text_encoder": torch.zeros(len(prompts), 1, dtype=torch.long)})

    def encode_text(self, tokens):
        return Cond({"text": tokens.ids["text_encoder"].float()})

    def denoise(self, x_t, timestep, cond):
        self.seen.append(float(timestep[0]))
        return (x_t - self.goal) / (timestep / 1000)[:, None, None, None]

    def decode_latents(self, latents):
        return latents

    def identity(self, component):
        return component

    def encode_images(self, pixels):
        raise AssertionError("nothing is encoded")

    def pipeline(self, scheduler="auto", sampling=None):
        raise AssertionError("it has no pipeline")


def bound(shift):
    made = {"name": "rectified_flow"} if shift is None else {"name": "rectified_flow", "shift": shift}
    return Objective.read(made).bind(FLOW, CPU)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_a_known_flow_ends_at_its_picture(shift, guidance):
    model = KnownFlow()
    shot = Shot("a", "", 3, (72, 48), 6, guidance)
    (picture,) = paint(model, [shot], objective=bound(SHIFTS[shift]))
    expected = (model.goal / 2 + 0.5).mul(255).round().permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 1
    assert len(model.seen) == 6
    assert model.seen[0] == pytest.approx(1000)
    assert model.seen == sorted(model.seen, reverse=True)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("size", [(64, 64), (128, 96)])
def test_paint_is_the_pipeline(sd35_model, sd35_folder, shift, size):
    """The same levels at the same size, the dynamic shift included, and so the same picture."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    flow = bound(SHIFTS[shift])
    theirs = StableDiffusion3Pipeline.from_pretrained(sd35_folder, local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    told = flow.sampling() if shift != "resolution" else {"shift": math.sqrt(size[0] * size[1] / 8**2 / 4 / 256)}
    theirs.scheduler = FlowMatchEulerDiscreteScheduler.from_config({**theirs.scheduler.config, **told})
    shot = Shot("a photo of a dog", "a red cup", 3, size, 5, 4.5)
    (ours,) = paint(sd35_model, [shot], objective=flow)
    expected = theirs(
        shot.prompt,
        negative_prompt=shot.negative,
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        latents=start_noise(sd35_model, shot)[None],
        width=size[0],
        height=size[1],
    ).images[0]
    assert ours.size == expected.size == size
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_a_sampler_is_its_own_object_and_shifts_once():
    """Trap 26: setting timesteps on a table that training reads would shift it a second time."""
    flow = bound(None)
    before = dict(FLOW), flow.sigma(torch.tensor([0.5]), 8, 8)
    first = sampler(FLOW, "auto", flow.sampling())
    set_timesteps(first, 20, (8, 8), CPU)
    set_timesteps(first, 20, (8, 8), CPU)
    second = sampler(FLOW, "flow_euler", flow.sampling())
    set_timesteps(second, 20, (8, 8), CPU)
    assert torch.equal(first.sigmas, second.sigmas)
    assert dict(FLOW) == before[0]
    assert torch.equal(flow.sigma(torch.tensor([0.5]), 8, 8), before[1])


def test_the_runs_shift_reaches_the_sampler_and_nothing_else_does():
    config = sampler(FLOW | {"use_dynamic_shifting": True}, "auto", bound(None).sampling()).config
    assert (config["shift"], config["use_dynamic_shifting"]) == (3.0, False)
    assert sampler(FLOW, "auto", bound(SHIFTS["none"]).sampling()).config["shift"] == 1.0
    assert bound(SHIFTS["resolution"]).sampling() == {}, "what no configuration can say"
    assert bound(SHIFTS["resolution"]).sampling_at(128, 128)["shift"] == 4.0
    for same in ("none", "dynamic"):
        assert bound(SHIFTS[same]).sampling_at(128, 128) == bound(SHIFTS[same]).sampling()
    for levels in ("uniform", "mode", "cosmap"):
        made = Objective.read({"name": "rectified_flow", "levels": levels, "weighting": "cosmap"})
        assert made.bind(FLOW, CPU).sampling() == bound(None).sampling()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_samplers_of_diffusion_draw_no_flow(name):
    with pytest.raises(UsageError, match=f"scheduler {re.escape(name)} does not draw this base, which is a flow"):
        sampler(FLOW, name, {})
    assert choose({"_class_name": "PNDMScheduler"}, name) == name


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_samplers_of_flows_draw_no_diffusion(name, sd15_model):
    with pytest.raises(UsageError, match=f"scheduler {re.escape(name)} does not draw this base, which is no flow"):
        paint(sd15_model, [Shot("a", "", 0, (64, 64), 2, 1.0, name)])
    assert choose(FLOW, name) == name


@pytest.mark.parametrize(
    ("base", "own"), [(FLOW, "flow_euler"), ({"_class_name": "PNDMScheduler"}, "dpm++"), ({}, "dpm++")]
)
def test_auto_is_the_first_of_the_bases_kind(base, own):
    assert choose(base, "auto") == own
    with pytest.raises(UsageError, match="unknown scheduler 'ddmi'"):
        choose(base, "ddmi")
