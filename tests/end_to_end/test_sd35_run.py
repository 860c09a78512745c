"""A run on a tiny SD3.5-shaped model: data, cache, rectified flow, LoRA, samples, files, and going on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from listener import Listener
from safetensors.torch import load_file
from tiny_sd35 import write_sd35

import tuner
from tuner import toybox
from tuner.formats.lora import DIFFUSERS_FILE
from tuner.recipe import Recipe


def recipe(folder: Path, steps: int, **sections: dict) -> Recipe:
    tree: dict = {
        "backbone": {"name": "sd35", "model": str(folder), "t5_length": 20},
        "adapters": {"name": "lora", "rank": 2},
        "task": {"name": "finetune"},
        "data": {
            "resolution": 64,
            "bucket_step": 16,
            "images": {"path": str(toybox.pictures()), "caption": "a photo of a dog"},
        },
        "train": {"steps": steps, "batch": 2, "lr": 1e-2, "device": "cpu", "precision": "fp32"},
        "sample": {"every": 3, "prompts": ["a photo of a dog"], "steps": 2, "guidance": 3.0},
        "save": {"every": 3},
        "log": {"every": 1},
    }
    for name, section in sections.items():
        tree[name] = tree[name] | section
    return Recipe.model_validate(tree)


def learned(run: Path) -> bytes:
    return (run / "adapter" / DIFFUSERS_FILE).read_bytes()


@pytest.mark.parametrize("text_encoder_lr", [None, 1e-3])
def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(sd35_folder, tmp_path, text_encoder_lr):
    adapters = {"adapters": {"text_encoder_lr": text_encoder_lr}}
    listener = Listener()
    tuner.run(recipe(sd35_folder, 3, **adapters), run_dir=tmp_path / "run", watchers=[listener])
    first = learned(tmp_path / "run")
    done = tuner.run(recipe(sd35_folder, 5, **adapters), run_dir=tmp_path / "run")
    straight = tuner.run(recipe(sd35_folder, 5, **adapters), run_dir=tmp_path / "straight", name="run")
    assert (done.step, straight.step) == (5, 5)
    there, here = (load_file(run / "adapter" / DIFFUSERS_FILE) for run in (tmp_path / "run", tmp_path / "straight"))
    assert there.keys() == here.keys()
    assert all((there[key] == here[key]).all() for key in there)
    assert learned(tmp_path / "run") != first
    components = {"transformer"} | ({"text_encoder", "text_encoder_2"} if text_encoder_lr else set())
    assert {key.split(".")[0] for key in there} == components
    assert (tmp_path / "run/samples/5/0.png").is_file()
    assert any("RMSNorm" in line for line in listener.said)
    assert listener.warned == []


def test_dreambooth_by_prediction_in_bf16_without_norms_of_queries_and_keys(tmp_path):
    """What spoils a run in 16 bit is warned about; gradient checkpointing and a dropped T5 go along."""
    folder = write_sd35(tmp_path / "sd3", qk_norm=None, dual_attention_layers=())
    listener = Listener()
    images = {"path": str(toybox.pictures()), "caption": "a photo of sks dog"}
    data = {"images": None, "instance": images, "prior": {"predict": True, "caption": "a photo of a dog"}}
    made = recipe(
        folder,
        2,
        backbone={"t5": False},
        task={"name": "dreambooth"},
        data=data,
        train={"precision": "bf16", "gradient_checkpointing": True},
        sample={"prompts": [], "every": None},
    )
    done = tuner.run(made, run_dir=tmp_path / "run", watchers=[listener])
    assert done.step == 2
    assert any("does not normalise queries and keys" in line for line in listener.warned)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    logits = {line["step"]: line["value"] for line in lines if line["name"] == "attention_logit_max"}
    assert list(logits) == [1, 2]
    assert all(value > 0 for value in logits.values())
    assert any(
        float(value.abs().max()) > 0
        for key, value in load_file(done.adapter / DIFFUSERS_FILE).items()
        if "lora_B" in key
    )
