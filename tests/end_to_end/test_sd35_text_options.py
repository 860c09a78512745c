"""What changes the text of a batch, in whole runs: each option has its effect, and a run that goes on ends the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tuner
from tuner import toybox
from tuner.formats.lora import DIFFUSERS_FILE
from tuner.recipe import Recipe

MIX = [{"ending": ".txt", "weight": 0.5}, {"ending": ".synthetic.txt", "weight": 0.5}]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Four pictures with two captions each."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, file in enumerate(sorted(toybox.pictures().glob("*.png"))[:4]):
        shutil.copy(file, folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a photo of a dog")
        (folder / f"{number}.synthetic.txt").write_text("red cup on grass")
    return folder


def learned(model: Path, pictures: Path, run: Path, stops=(4,), text_encoder_lr=None, captions=None, **data) -> dict:
    """The adapter's tensors after a run that is started once for each of `stops`."""
    images = {"path": str(pictures), **({"captions": captions} if captions else {})}
    for steps in stops:
        recipe = Recipe.model_validate(
            {
                "backbone": {"name": "sd35", "model": str(model), "t5_length": 20},
                "adapters": {"name": "lora", "rank": 2, "text_encoder_lr": text_encoder_lr},
                "task": "finetune",
                "data": {"resolution": 64, "bucket_step": 16, "images": images, **data},
                "train": {"steps": steps, "batch": 2, "lr": 1e-2, "device": "cpu", "precision": "fp32"},
                "log": {"every": 1},
            }
        )
        tuner.run(recipe, run_dir=run)
    return load_file(run / "adapter" / DIFFUSERS_FILE)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


@pytest.mark.parametrize("text_encoder_lr", [None, 1e-3])
def test_each_option_has_its_effect_and_a_run_that_goes_on_ends_the_same(
    sd35_folder, pictures, tmp_path, text_encoder_lr
):
    def run(name, stops=(4,), **options):
        return learned(sd35_folder, pictures, tmp_path / name, stops, text_encoder_lr, **options)

    plain = run("plain")
    ways = {
        "encoder_dropout": {"encoder_dropout": 0.463},
        "caption_dropout": {"caption_dropout": 0.5},
        "mix": {"captions": MIX},
        "all": {"encoder_dropout": 0.463, "caption_dropout": 0.5, "captions": MIX},
    }
    ends = {name: run(name, **options) for name, options in ways.items()}
    seen = [plain, *ends.values()]
    assert not any(same(one, other) for i, one in enumerate(seen) for other in seen[:i])
    assert same(run("went on", stops=(2, 4), **ways["all"]), ends["all"])
