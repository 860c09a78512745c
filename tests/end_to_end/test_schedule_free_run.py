"""A schedule-free run trains at one point and shows another: samples, validation and files hold the average."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from photos import shaped
from safetensors.numpy import load_file

from tuner import engine
from tuner.optim.shown import Shown
from tuner.recipe import Recipe
from tuner.saving import Saver

BETA, STEPS = 0.8, 4


def tree(**train) -> dict:
    return {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": {"name": "lora", "rank": 2},
        "task": "finetune",
        "data": {"resolution": 64, "bucket_step": 16, "images": {"path": str(shaped()), "caption": "a dog"}},
        "train": {"lr": 0.02, **train},
        "validation": {"hold_out": 0.2, "every": STEPS},
        "sample": {"every": STEPS, "prompts": "a dog", "steps": 2, "guidance": 1.0},
        "log": {"every": STEPS},
    }


def run(folder: Path, **train) -> Path:
    optimizer = {"name": "schedule_free", "betas": [BETA, 0.99]}
    recipe = Recipe.model_validate(tree(steps=STEPS, optimizer=optimizer, **train))
    return engine.run(recipe, run_dir=folder).run_dir


def begun_as(run: Path, folder: Path) -> Path:
    """A run whose first picture and first validation are of what another saved."""
    saved = tree(steps=1)
    saved["adapters"]["init_from"] = str(run / "adapter" / "pytorch_lora_weights.safetensors")
    return engine.run(Recipe.model_validate(saved), run_dir=folder).run_dir


def measured(run: Path, step: int) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["value"] for row in rows if row["step"] == step and row["name"].startswith("validation_loss")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, own_cache):
    return run(tmp_path_factory.mktemp("free") / "run")


def averages(run: Path) -> dict:
    """x of each tensor, from the y and the z of the last checkpoint."""
    place = run / "checkpoints" / str(STEPS)
    y, state = load_file(place / "adapter.0.safetensors"), load_file(place / "optimizer.safetensors")
    z = {name: state[f"{index}.z"] for index, name in enumerate(in_order(run))}
    return {name: z[name] + (value - z[name]) / BETA for name, value in y.items()}


def in_order(run: Path) -> list[str]:
    """The trained tensors as the optimizer counts them."""
    import torch

    from tuner.adapters.lora import LoRA
    from tuner.backbones.sd15 import SD15
    from tuner.draws import Draws

    model = SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)
    attachment = LoRA(rank=2).attach(model, keep_base=False, draws=Draws(0))
    return [name for group in attachment.param_groups() for name in group.params]


def same(one, other) -> bool:
    """Whether two files hold the same values under whatever names."""
    first, second = ([each[name] for name in sorted(each)] for each in (one, other))
    left = list(second)
    for value in first:
        found = [i for i, v in enumerate(left) if v.shape == value.shape and np.allclose(v, value, rtol=0, atol=1e-6)]
        if not found:
            return False
        del left[found[0]]
    return not left


def test_the_files_hold_the_average_of_what_the_checkpoint_trains(finished):
    saved = load_file(finished / "adapter" / "pytorch_lora_weights.safetensors")
    place = finished / "checkpoints" / str(STEPS)
    assert same(saved, averages(finished))
    assert not same(saved, load_file(place / "adapter.0.safetensors"))
    assert not (place / "ema.safetensors").exists(), "it follows from the rest"


def test_samples_and_validation_see_what_the_files_hold(finished, tmp_path):
    again = begun_as(finished, tmp_path / "again")
    assert (again / "samples" / "0" / "0.png").read_bytes() == (finished / "samples" / f"{STEPS}/0.png").read_bytes()
    assert measured(again, 0) == measured(finished, STEPS)
    assert len(measured(again, 0)) == 9


def test_the_files_say_so(finished):
    assert "average of the weights that a schedule-free optimizer keeps" in (finished / "adapter/README.md").read_text()


def test_a_forgotten_switch_is_noticed(finished, tmp_path, monkeypatch):
    """Of the point that trains, samples, validation and files are other ones: the tests above could fail."""
    monkeypatch.setattr(Shown, "swapped_in", lambda self: contextlib.nullcontext())
    monkeypatch.setattr(Saver, "_shown", lambda self, raw: raw)
    wrong = run(tmp_path / "wrong")
    picture = f"samples/{STEPS}/0.png"
    assert (wrong / picture).read_bytes() != (finished / picture).read_bytes()
    assert measured(wrong, STEPS) != measured(finished, STEPS)
    assert measured(wrong, 0) == measured(finished, 0), "before the first step they are the same"
    assert same(averages(wrong), averages(finished)), "what is shown does not touch what trains"
    assert not same(load_file(wrong / "adapter" / "pytorch_lora_weights.safetensors"), averages(wrong))
