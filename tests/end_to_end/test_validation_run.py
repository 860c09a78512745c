"""Runs with held-out pictures: the same training, the same values however often they stop, the best step named."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tuner
from tuner import boundaries, toybox
from tuner.adapters.lora import LoRAAttachment
from tuner.best import Best, Measured
from tuner.control import request as ask
from tuner.errors import DataError, Stopped, UsageError
from tuner.lines import read_metrics
from tuner.recipe import Recipe
from tuner.resolved import resolved_tree
from tuner.rundir import RunDir
from tuner.validation import Validator
from tuner.watch import Watcher


@pytest.fixture(autouse=True)
def without_proof(monkeypatch):
    """That files load back is proved elsewhere, and takes most of a small run's time."""
    monkeypatch.setattr(LoRAAttachment, "verify", lambda self, files, state: None)
    monkeypatch.setattr(boundaries, "CONTROL_EVERY_S", 0.0)


@pytest.fixture
def measured(monkeypatch):
    """One entry each time that anything is measured."""
    calls: list[int] = []
    measure = Validator.measure

    def counted(self, student, training):
        calls.append(len(calls))
        return measure(self, student, training)

    monkeypatch.setattr(Validator, "measure", counted)
    return calls


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """`images` to learn from, `held` with one other picture and one of the same."""
    place = tmp_path_factory.mktemp("photos")
    files = sorted(toybox.pictures().glob("*.png"))
    for name, members in (("images", files[:4]), ("held", files[3:])):
        (place / name).mkdir()
        for file in members:
            shutil.copy(file, place / name / file.name)
    return place


def recipe(photos: Path, steps: int, *, validation: Any = True, **sections: Any) -> Recipe:
    tree: dict[str, Any] = {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": {"name": "lora", "rank": 2, "where": "cross_attention", "dropout": 0.2, "text_encoder_lr": 1e-3},
        "task": "finetune",
        "data": {
            "resolution": 32,
            "bucket_step": 8,
            "flip": True,
            "caption_dropout": 0.3,
            "images": {"path": str(photos / "images"), "caption": "a photo of sks dog"},
        },
        "train": {"steps": steps, "lr": 1e-2, "ema": {"decay": 0.5}, "device": "cpu", "precision": "fp32", "seed": 3},
        "save": {"every": 2, "keep": 9},
        "log": {"every": 1},
    }
    if validation:
        held = {"path": str(photos / "held"), "caption": "a photo of sks dog"}
        tree["validation"] = {"every": 2, "images": held} if validation is True else validation
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    return Recipe.model_validate(tree)


class Listener(Watcher):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bests: list[Best] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")

    def best(self, step: int, loss: float) -> None:
        self.bests.append(Best(step, loss))


def values(run: Path) -> dict[int, float]:
    """The validation loss of each step, from validation.json."""
    return {row["step"]: row["loss"] for row in json.loads((run / "validation.json").read_text())["values"]}


def tensors(run: Path) -> dict[str, bytes]:
    """Everything that a run learned and would go on from."""
    files = [*run.glob("checkpoints/*/*.safetensors"), *run.glob("**/adapter/pytorch_lora_weights.safetensors")]
    return {
        f"{file.relative_to(run)}: {name}": tensor.numpy().tobytes()
        for file in files
        for name, tensor in load_file(file).items()
    }


def test_a_run_with_validation_trains_the_same_weights(photos, tmp_path):
    with_it, without = Listener(), Listener()
    done = tuner.run(recipe(photos, 5), run_dir=tmp_path / "with", watchers=[with_it])
    plain = tuner.run(recipe(photos, 5, validation=False), run_dir=tmp_path / "without", watchers=[without])
    assert tensors(tmp_path / "with") == tensors(tmp_path / "without")
    assert {name.split(":")[0] for name in tensors(tmp_path / "with")} > {
        "checkpoints/4/ema.safetensors",
        "checkpoints/4/optimizer.safetensors",
        "adapter/pytorch_lora_weights.safetensors",
    }
    # what is written down of it
    found = values(tmp_path / "with")
    assert list(found) == [0, 2, 4, 5]
    assert len({f"{loss:.9f}" for loss in found.values()}) == 4
    metrics = read_metrics(tmp_path / "with" / "metrics.jsonl")
    assert {step: row["validation_loss"] for step, row in metrics.items() if "validation_loss" in row} == found
    levels = [metrics[4][f"validation_loss/level_{k}"] for k in range(8)]
    assert sum(levels) / 8 == pytest.approx(found[4], rel=1e-12)
    others = {step: {k: v for k, v in row.items() if "valid" not in k and k != "it_s"} for step, row in metrics.items()}
    untouched = read_metrics(tmp_path / "without" / "metrics.jsonl")
    expected = {step: {k: v for k, v in row.items() if k != "it_s"} for step, row in untouched.items()}
    assert {step: row for step, row in others.items() if row} == expected
    # the best, everywhere
    lowest = min((loss, step) for step, loss in found.items() if step)
    best = Best(lowest[1], lowest[0])
    assert done.best == best
    assert plain.best is None
    status = RunDir(tmp_path / "with").status()
    assert status is not None
    assert status.best == best
    assert with_it.bests[-1] == best
    said = f"best: {best}; its files are in {tmp_path / 'with' / 'checkpoints' / str(best.step) / 'adapter'}"
    assert said in with_it.lines
    card = (done.adapter / "README.md").read_text()
    assert f"| best checkpoint so far | step {best.step} " in card
    assert f"| validation loss | {found[5]:g} |" in card
    assert "validation loss" not in (plain.adapter / "README.md").read_text()
    assert any("averaged weights (EMA) on 1 held-out picture" in line for line in with_it.lines)
    assert any("3.png: left out: it is" in line for line in with_it.lines)
    assert not any("valid" in line for line in without.lines)


def test_a_run_that_stops_and_goes_on_has_the_same_values(photos, tmp_path, measured):
    """Stopped where a value is due, killed after it was measured, made longer: none is lost, none is computed twice."""
    tuner.run(recipe(photos, 8), run_dir=tmp_path / "straight")
    expected = values(tmp_path / "straight")
    assert (list(expected), len(measured)) == ([0, 2, 4, 6, 8], 5)
    measured.clear()

    class Stopping(Watcher):
        def metrics(self, step, values):
            if step == 3 and "loss" in values:
                ask(tmp_path / "run", "stop")

    with pytest.raises(Stopped):
        tuner.run(recipe(photos, 8), run_dir=tmp_path / "run", watchers=[Stopping()])
    assert list(values(tmp_path / "run")) == [0, 2]  # the stop came first
    status = RunDir(tmp_path / "run").status()
    assert status is not None
    assert status.best == Best(2, expected[2])

    class Dying(Watcher):
        def metrics(self, step, values):
            if step == 6 and "validation_loss" in values:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuner.run(recipe(photos, 8), run_dir=tmp_path / "run", watchers=[Dying()])
    assert values(tmp_path / "run") == {step: loss for step, loss in expected.items() if step <= 6}
    assert len(measured) == 4
    done = tuner.run(recipe(photos, 8), run_dir=tmp_path / "run")
    assert values(tmp_path / "run") == expected
    assert len(measured) == 6  # step 6 was trained again, and so was measured again
    straight = RunDir(tmp_path / "straight").status()
    assert straight is not None
    assert done.best == straight.best
    longer = tuner.run(recipe(photos, 10), run_dir=tmp_path / "run")
    assert list(values(tmp_path / "run")) == [0, 2, 4, 6, 8, 10]
    assert len(measured) == 7
    assert longer.best is not None
    assert longer.best.validation_loss <= done.best.validation_loss


def test_other_pictures_start_a_new_comparison(photos, tmp_path):
    tuner.run(recipe(photos, 2), run_dir=tmp_path / "run")
    listener = Listener()
    other = {"every": 3, "images": {"path": str(photos / "held"), "caption": "a photo of a cat"}}
    done = tuner.run(recipe(photos, 4, validation=other), run_dir=tmp_path / "run", watchers=[listener])
    assert list(values(tmp_path / "run")) == [3, 4]
    assert done.best is not None
    assert done.best.step == 4
    assert any("another one than before" in line for line in listener.lines)
    assert any("meet at no step but the last" in line for line in listener.lines)


def test_a_share_of_the_pictures_is_never_trained_on(photos, tmp_path):
    share = {"every": 2, "hold_out": 0.25}
    listener = Listener()
    tuner.run(recipe(photos, 2, validation=share), run_dir=tmp_path / "run", watchers=[listener])
    trained = json.loads((tmp_path / "run" / "identity.json").read_text())["run"]["pictures"]
    assert len(trained["images"]) == 3
    assert list(trained) == ["images"]
    assert any("1 of 4 pictures of data.images held out" in line for line in listener.lines)
    with pytest.raises(UsageError, match=r"started differently:\n.*pictures\.images"):
        tuner.run(recipe(photos, 3, validation=False), run_dir=tmp_path / "run")


def test_without_a_cache_and_with_random_crops_the_measured_picture_stays_the_same(photos, tmp_path):
    tree = resolved_tree(recipe(photos, 2))
    del tree["data"]["bucket_step"]
    tree["data"] |= {"cache": "off", "crop": "random", "color_jitter": 0.3}
    tuner.run(Recipe.model_validate(tree), run_dir=tmp_path / "fresh")
    tree["data"] |= {"cache": "disk", "crop": "center", "color_jitter": 0.0}
    tuner.run(Recipe.model_validate(tree), run_dir=tmp_path / "cached")
    assert values(tmp_path / "fresh")[0] == values(tmp_path / "cached")[0]


def test_values_that_are_not_finite_are_never_the_best(photos, tmp_path, monkeypatch):
    measure, calls = Validator.measure, []

    def broken(self, student, training):
        found = measure(self, student, training)
        calls.append(found.loss)
        lost = {2: math.nan, 3: -math.inf}.get(len(calls) - 1)  # of the steps 0, 2, 4, 6
        return found if lost is None else dataclasses.replace(found, loss=lost)

    monkeypatch.setattr(Validator, "measure", broken)
    listener = Listener()
    done = tuner.run(recipe(photos, 6), run_dir=tmp_path / "run", watchers=[listener])
    assert done.best is not None
    assert done.best.step == 2
    assert values(tmp_path / "run") == {0: calls[0], 2: calls[1], 4: None, 6: None}
    assert sum("not finite, so this step cannot be the best" in line for line in listener.lines) == 2
    assert "validation loss" not in (tmp_path / "run" / "adapter" / "README.md").read_text()


def test_a_step_without_files_is_not_named_however_low(photos, tmp_path, monkeypatch):
    losses = iter([0.0, 0.1, 0.3, 0.2, 0.4])
    monkeypatch.setattr(Validator, "measure", lambda *_: Measured(next(losses), ()))
    listener = Listener()
    each = {"every": 1, "images": {"path": str(photos / "held"), "caption": "a photo"}}
    done = tuner.run(recipe(photos, 4, validation=each), run_dir=tmp_path / "run", watchers=[listener])
    assert list(values(tmp_path / "run")) == [0, 1, 2, 3, 4]
    assert done.best == Best(2, 0.3)
    assert listener.bests == [Best(2, 0.3)]
    assert "best checkpoint so far | step 2 " in (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert (tmp_path / "run" / "checkpoints" / "2" / "adapter" / "pytorch_lora_weights.safetensors").is_file()


def test_held_out_pictures_that_are_all_trained_on_end_the_run_before_it_starts(photos, tmp_path):
    same = {"every": 2, "images": {"path": str(photos / "images"), "caption": "a photo"}}
    with pytest.raises(DataError, match="none is held out"):
        tuner.run(recipe(photos, 2, validation=same), run_dir=tmp_path / "run")


def test_a_run_on_a_flow_is_measured_too(photos, sd35_folder, tmp_path):
    flow = {"name": "sd35", "model": str(sd35_folder), "t5_length": 20}
    tree = recipe(photos, 3).model_dump(mode="json", exclude={"backbone", "objective", "data", "validation"})
    images = {"path": str(photos / "images"), "caption": "a photo of a dog"}
    held = {"path": str(photos / "held"), "caption": "a photo of a dog"}
    tree["data"] = {"resolution": 64, "bucket_step": 16, "images": images}
    tree["adapters"] = {"name": "lora", "rank": 2}
    for name, sections in (("a", {"validation": {"every": 3, "images": held}}), ("b", {})):
        tuner.run(Recipe.model_validate({**tree, "backbone": flow, **sections}), run_dir=tmp_path / name, name="run")
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")
    assert list(values(tmp_path / "a")) == [0, 3]
