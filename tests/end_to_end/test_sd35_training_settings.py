"""The settings that Stable Diffusion 3 was trained with, together in one run: bf16, eps, average, warm-up, accumulation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import tuner
from tuner import toybox
from tuner.formats.lora import DIFFUSERS_FILE
from tuner.recipe import Recipe


@pytest.fixture(scope="module")
def finished(sd35_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("settings") / "run"
    tree = {
        "backbone": {"name": "sd35", "model": str(sd35_folder), "t5_length": 20},
        "adapters": {"name": "lora", "rank": 2},
        "task": "finetune",
        "data": {
            "resolution": 32,
            "crop": "center",
            "images": {"path": str(toybox.pictures()), "caption": "a photo of a dog", "repeats": 2},
        },
        "train": {
            "steps": 5,
            "batch": 1,
            "accumulate": 3,
            "lr": 1e-4,
            "precision": "bf16",
            "device": "cpu",
            "optimizer": {"name": "adamw", "eps": 1e-15},
            "schedule": {"name": "constant", "warmup": 1000},
            "ema": {"decay": 0.99, "every": 2},
        },
        "save": {"every": 1, "keep": 9},
        "log": {"every": 1},
    }
    tuner.run(Recipe.model_validate(tree), run_dir=run)
    return run


def test_the_rate_rises_in_a_straight_line(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["value"] for row in rows if row["name"] == "lr"}
    assert rates == pytest.approx({step: 1e-4 * step / 1001 for step in range(1, 6)})


def test_what_trains_is_float32_and_eps_reaches_the_optimizer(finished):
    for group in ("adapter.0", "optimizer", "ema"):
        state = load_file(finished / "checkpoints" / "5" / f"{group}.safetensors")
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}, group
    assert "eps: 1" in (finished / "resolved.yaml").read_text()
    # the first step of Adam is as long as its rate wherever the gradient is far above eps, be it as small as it is
    first = load_file(finished / "checkpoints" / "1" / "adapter.0.safetensors")
    moments = load_file(finished / "checkpoints" / "1" / "optimizer.safetensors")
    steps = torch.cat([t.flatten().abs() for name, t in first.items() if "lora_B" in name])
    gradients = torch.cat([t.flatten().abs() * 10 for name, t in moments.items() if name.endswith("exp_avg")])
    small = gradients[(gradients > 0)].min()
    assert float(steps[steps > 0].min()) == pytest.approx(1e-4 / 1001, rel=1e-3), f"gradients down to {small:.0e}"


def test_the_average_is_taken_every_second_step_and_is_what_the_files_hold(finished):
    raw = {step: load_file(finished / "checkpoints" / str(step) / "adapter.0.safetensors") for step in range(1, 6)}
    ema = {step: load_file(finished / "checkpoints" / str(step) / "ema.safetensors") for step in range(1, 6)}
    for name in raw[1]:
        assert torch.equal(ema[2][name], ema[3][name])
        assert torch.equal(ema[4][name], ema[5][name])
        if "lora_B" in name:  # which began as 0
            want = 0.99 * (0.01 * raw[2][name].double()) + 0.01 * raw[4][name].double()
            assert torch.allclose(ema[4][name].double(), want, rtol=1e-5, atol=1e-12), name
    files = load_file(finished / "adapter" / DIFFUSERS_FILE)
    assert all(torch.equal(files[name], ema[5][name]) for name in ema[5])
