"""Runs that train the model itself: what they leave, what rotates, and that going on is exact with every optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tuner
from tuner import checkpoint, control, toybox
from tuner.drawing import Drawing, Strong, load, paint_all
from tuner.errors import Stopped, UsageError
from tuner.recipe import Recipe
from tuner.sampling import Shot
from tuner.watch import Watcher


class StopAt(Watcher):
    """Asks a run to stop at the end of a step."""

    def __init__(self, run_dir: Path, step: int) -> None:
        self.run_dir, self.step = run_dir, step

    def metrics(self, step: int, values: Any) -> None:
        if step == self.step:
            control.request(self.run_dir, "stop")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for picture in sorted(toybox.pictures().glob("*.png"))[:2]:
        (folder / picture.name).write_bytes(picture.read_bytes())
    return folder


def recipe(pictures: Path, adapter: dict[str, Any] | None = None, **keys: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": {"name": "sd15", "model": "toybox", **keys.pop("backbone", {})},
            "adapters": [{"name": "full", **(adapter or {})}],
            "task": "finetune",
            "data": {"resolution": 32, "bucket_step": 16, "images": {"path": str(pictures), "caption": "a dog"}},
            "train": {"steps": 4, "lr": 1e-4, "device": "cpu", "precision": "fp32", **keys.pop("train", {})},
            "save": {"every": 2, **keys.pop("save", {})},
            "log": {"every": 1},
            **keys,
        }
    )


def state(run: Path) -> dict[str, torch.Tensor]:
    found, rejected = checkpoint.newest(run / "checkpoints")
    assert found, rejected
    return {f"{group} {name}": tensor for group, own in found.tensors.items() for name, tensor in own.items()}


WAYS = {
    "bf16 adamw ema": ({"weights": "bf16"}, {"ema": {"decay": 0.9}}),
    "bf16 adafactor in backward": (
        {"weights": "bf16", "where": "attention"},
        {"optimizer": "adafactor", "optimizer_in_backward": True, "max_grad_norm": None},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_run_goes_on_bit_for_bit(way, pictures, tmp_path):
    adapter, train = WAYS[way]
    made = recipe(pictures, adapter, train=train)
    tuner.run(made, run_dir=tmp_path / "straight")
    stopped = tmp_path / "stopped"
    with pytest.raises(Stopped):
        tuner.run(made, run_dir=stopped, watchers=[StopAt(stopped, 2)])
    tuner.run(made, run_dir=stopped)
    want, found = state(tmp_path / "straight"), state(stopped)
    assert found.keys() == want.keys()
    assert [name for name, value in want.items() if not torch.equal(found[name], value)] == []
    weights = [value for name, value in want.items() if name.startswith("adapter.0 ")]
    assert {value.dtype for value in weights} == {torch.bfloat16}
    assert {value.dtype for name, value in want.items() if name.startswith("ema ")} <= {torch.float32}


def test_old_models_go_with_their_states_and_the_last_one_draws(pictures, tmp_path):
    run = tmp_path / "run"
    done = tuner.run(recipe(pictures, train={"steps": 3}, save={"every": 1, "keep": 1, "dtype": "fp16"}), run_dir=run)
    assert [place.name for place in (run / "checkpoints").iterdir()] == ["3"]
    assert {path.name for path in done.adapter.iterdir()} == {"model", "run.safetensors", "run.json", "README.md"}
    for place in (run, done.adapter):
        drawing = Drawing.plan([Strong(place, 1.0)], None, "cpu")
        assert drawing.base == str(done.adapter / "model")
        assert not drawing.adapters
    model = load(drawing, Watcher())
    (picture,) = paint_all(model, [Shot("a dog", size=(32, 32), steps=2)], Watcher())
    assert picture.size == (32, 32)
    with pytest.raises(UsageError, match="no strength by itself"):
        Drawing.plan([Strong(run, 0.5)], None, "cpu")
    between = Drawing.plan([Strong(run, 0.5)], "toybox", "cpu")
    assert between.base == "toybox"
    assert between.names == ["run:0.5"]


def test_pictures_beyond_the_table_are_placed_by_an_extended_one(pictures, sd35_folder, tmp_path):
    """The tiny model knows 16 x 16 patches of 16 px."""
    made = recipe(
        pictures,
        {"max_side_px": 320, "where": "image_stream"},
        backbone={"name": "sd35", "model": str(sd35_folder), "t5_length": 20},
        train={"steps": 1},
        data={"resolution": 320, "crop": "center", "images": {"path": str(pictures), "caption": "a dog"}},
    )
    done = tuner.run(made, run_dir=tmp_path / "run")
    from diffusers import SD3Transformer2DModel

    loaded = SD3Transformer2DModel.from_pretrained(done.adapter / "model" / "transformer", local_files_only=True)
    assert loaded.config["pos_embed_max_size"] == loaded.pos_embed.pos_embed_max_size == 20
    refused = recipe(
        pictures,
        backbone={"name": "sd35", "model": str(sd35_folder), "t5_length": 20},
        data={"resolution": 320, "crop": "center", "images": {"path": str(pictures), "caption": "a dog"}},
    )
    with pytest.raises(UsageError, match="max_side_px: 320"):
        tuner.run(refused, run_dir=tmp_path / "refused")
