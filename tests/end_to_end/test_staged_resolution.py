"""A chain of runs: 32 px, then 64 px beginning as the first one ended, the levels' shift following the resolution."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tuner
from tuner import toybox
from tuner.errors import DataError, Stopped, UsageError
from tuner.objectives.flow_levels import LogitNormal
from tuner.objectives.rectified_flow import BoundRectifiedFlow
from tuner.recipe import Recipe
from tuner.training import Training
from tuner.watch import Watcher


def stage(model: Path, resolution: int, steps: int, **adapter: object) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": {"name": "sd35", "model": str(model), "t5_length": 20},
            "adapters": {"name": "lora", "rank": 2, **adapter},
            "task": "finetune",
            # 32 px are 2 x 2 image tokens here, which need no shift
            "objective": {"name": "rectified_flow", "shift": {"name": "resolution", "base_tokens": 4}},
            "data": {
                "resolution": resolution,
                "crop": "center",
                "images": {"path": str(toybox.pictures()), "caption": "a photo of a dog"},
            },
            "train": {"steps": steps, "batch": 2, "lr": 1e-2, "device": "cpu", "precision": "fp32"},
            "save": {"every": 2},
            "log": {"every": 1},
        }
    )


class Seen:
    """What a run begins with, and the levels that it trains on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.starts: list[dict[str, torch.Tensor]] = []
        self.levels: list[tuple[torch.Tensor, torch.Tensor, tuple[int, int]]] = []
        real_of, real_sigma = Training.of.__func__, BoundRectifiedFlow.sigma  # type: ignore[attr-defined]

        def of(cls, attachments, *args, **keys):
            self.starts.append({n: t.clone() for a in attachments for n, t in a.state_dict().items()})
            return real_of(cls, attachments, *args, **keys)

        def sigma(bound, level, h, w):
            found = real_sigma(bound, level, h, w)
            self.levels.append((level.clone(), found.clone(), (h, w)))
            return found

        patch.setattr(Training, "of", classmethod(of))
        patch.setattr(BoundRectifiedFlow, "sigma", sigma)


class Stopper(Watcher):
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step == 2:
            import signal

            signal.raise_signal(signal.SIGINT)


def state(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / str(step) / "adapter.0.safetensors")


@pytest.fixture(scope="module")
def first(sd35_folder, tmp_path_factory) -> Path:
    """A finished run at 32 px, and the levels that it saw beside it."""
    run = tmp_path_factory.mktemp("stages") / "first"
    with pytest.MonkeyPatch.context() as patch:
        seen = Seen(patch)
        tuner.run(stage(sd35_folder, 32, 2), run_dir=run)
    assert not any(bool(t.any()) for name, t in seen.starts[0].items() if "lora_B" in name), "it began anew"
    for level, found, size in seen.levels:
        assert size == (4, 4)
        assert torch.allclose(found, LogitNormal().sigma(level), rtol=1e-6), "no shift at the base size"
    return run


def test_the_second_stage_begins_bit_for_bit_as_the_first_ended(first, sd35_folder, tmp_path, monkeypatch):
    seen = Seen(monkeypatch)
    recipe = stage(sd35_folder, 64, 4, init_from=str(first))
    tuner.run(recipe, run_dir=tmp_path / "second")
    ended = state(first, 2)
    assert seen.starts[0].keys() == ended.keys()
    assert all(torch.equal(seen.starts[0][name], ended[name]) for name in ended)
    assert any(bool(t.any()) for name, t in ended.items() if "lora_B" in name)
    later = state(tmp_path / "second", 4)
    assert any(not torch.equal(later[name], ended[name]) for name in ended), "and learned on"
    assert seen.levels
    for level, found, size in seen.levels:
        assert size == (8, 8)
        plain = LogitNormal().sigma(level)
        assert torch.allclose(found, 2 * plain / (1 + plain), rtol=1e-5), "sqrt(16 / 4) = 2"

    # stopped and gone on with, it is the same run, though training starts from the file again
    with pytest.raises(Stopped):
        tuner.run(recipe, run_dir=tmp_path / "stopped", watchers=[Stopper()])
    tuner.run(recipe, run_dir=tmp_path / "stopped")
    gone_on = state(tmp_path / "stopped", 4)
    assert all(torch.equal(later[name], gone_on[name]) for name in later)


def test_a_run_goes_on_with_the_very_start_that_it_began_with(first, sd35_folder, tmp_path):
    shutil.copytree(first, tmp_path / "first")
    recipe = stage(sd35_folder, 64, 4, init_from=str(tmp_path / "first"))
    with pytest.raises(Stopped):
        tuner.run(recipe, run_dir=tmp_path / "second", watchers=[Stopper()])
    said = json.loads((tmp_path / "second" / "status.json").read_text())
    file = tmp_path / "first" / "adapter" / "pytorch_lora_weights.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(UsageError, match=r"started differently:\n.*init_from"):
        tuner.run(recipe, run_dir=tmp_path / "second")
    for file in (tmp_path / "first" / "adapter").glob("*.safetensors"):  # on SD3.5 both hold the same
        file.unlink()
    with pytest.raises(DataError, match="init_from"):
        tuner.run(recipe, run_dir=tmp_path / "second")
    assert json.loads((tmp_path / "second" / "status.json").read_text())["state"] in (said["state"], "failed")


def test_a_start_of_another_rank_is_refused_before_anything_is_encoded(first, sd35_folder, tmp_path):
    with pytest.raises(UsageError, match="has rank 2 where this run has 4"):
        tuner.run(stage(sd35_folder, 64, 4, init_from=str(first), rank=4), run_dir=tmp_path / "second")
    assert not (tmp_path / "second" / "checkpoints").exists()
