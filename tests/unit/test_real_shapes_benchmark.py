"""benchmarks/real_shapes.py on a tiny layout on the CPU, and what it says without CUDA."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_sd35 import TRANSFORMER

from tuner.backbones import mmdit_layout as ml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of what is installed

from benchmarks import real_shapes  # noqa: E402

CONFIGS = {**ml.configs("medium"), "transformer": TRANSFORMER}


@pytest.fixture(scope="module")
def measured() -> dict:
    return real_shapes.measure(
        CONFIGS, torch.device("cpu"), rank=2, steps=2, px=64, checkpointing=True, attention_logit=True
    )


def test_it_takes_real_steps(measured):
    assert measured["finite"]
    assert len(measured["seconds_a_step"]) == 2
    assert min(measured["seconds_a_step"]) > 0
    assert len(measured["attention_logit_max"]) == 3
    layout = ml.layout(CONFIGS, t5_length=256)
    names = [n for n in layout.linears["transformer"] if ".attn" in n]
    assert measured["trained_parameters"] == sum(2 * sum(layout.linears["transformer"][name]) for name in names)


def test_the_plan_beside_it_is_that_of_the_plan(measured):
    planned = measured["planned_bytes"]
    layout = ml.layout(CONFIGS, t5_length=256)
    names = [n for n in layout.linears["transformer"] if ".attn" in n]
    assert planned["denoiser"] == 2 * layout.parameters["transformer"]
    assert planned["adapter, gradients, optimizer"] == 16 * measured["trained_parameters"]
    activations = layout.activations.training(64 * 64, 2, names, checkpointing=True)
    assert planned["activations of 1 at once"] == int(activations)
    assert measured["planned_bytes_in_all"] == sum(planned.values())
    assert measured["peak_bytes"] is None, "the CPU tells no peak"


def test_equal_seeds_are_equal_steps():
    again = [
        real_shapes.measure(CONFIGS, torch.device("cpu"), rank=2, steps=1, px=64, attention_logit=True)
        for _ in range(2)
    ]
    assert again[0]["attention_logit_max"] == again[1]["attention_logit_max"]


def test_what_is_written_names_the_machine(measured, tmp_path):
    file = real_shapes.write({"model": "m", **measured}, tmp_path / "results", "medium")
    found = json.loads(file.read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["device"]
    assert file.name.startswith("medium-64px-lora2-checkpointed-")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_it_says_so_and_ends_with_2(capsys, tmp_path):
    assert real_shapes.main(["--model", "medium", "--steps", "5", "--lora-rank", "16", "--out", str(tmp_path)]) == 2
    assert "no CUDA" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
