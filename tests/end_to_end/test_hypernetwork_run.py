"""A hypernetwork from a recipe to pictures: exact resume with dropout and average, both files, every door that reads them."""

from __future__ import annotations

import json
import re

import pytest
import torch

import tuner
from tuner import control, toybox
from tuner.cli import call
from tuner.errors import Stopped
from tuner.formats.container import read_header
from tuner.recipe import Recipe
from tuner.tensor_files import read_tensors, same_bits
from tuner.watch import Watcher

HARD = {
    "name": "hypernetwork",
    "activation": "relu",
    "layer_norm": True,
    "dropout": 0.3,
    "layer_structure": [1, 2, 2, 1],
}


class StopAt(Watcher):
    """Asks a run to stop at the end of a step."""

    def __init__(self, run_dir, step):
        self.run_dir, self.step = run_dir, step

    def metrics(self, step, values):
        if step == self.step:
            control.request(self.run_dir, "stop")


def recipe(backbone, adapters, **train) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": backbone,
            "adapters": adapters,
            "task": "finetune",
            "data": {
                "resolution": 32,
                "bucket_step": 16,
                "images": {"path": str(toybox.pictures()), "caption": "a red dog"},
            },
            "train": {"steps": 4, "batch": 2, "lr": 1e-2, "device": "cpu", "precision": "fp32", **train},
            "sample": {"prompts": []},
            "save": {"every": 2},
            "log": {"every": 1},
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sd35_folder):
    """Two equal runs on sd15, one of them stopped half-way, and a short one on sd35."""
    place = tmp_path_factory.mktemp("runs")
    made = recipe({"name": "sd15", "model": "toybox"}, [HARD], ema={"decay": 0.9}, accumulate=2)
    tuner.run(made, run_dir=place / "straight" / "dog")
    with pytest.raises(Stopped):
        tuner.run(made, run_dir=place / "dog", watchers=[StopAt(place / "dog", 2)])
    tuner.run(made, run_dir=place / "dog")
    tuner.run(
        recipe({"name": "sd35", "model": str(sd35_folder), "t5_length": 20}, "hypernetwork", steps=2),
        run_dir=place / "flow",
    )
    return place


@pytest.fixture
def say(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)

    def run(*words, code=0):
        assert call(list(words)) == code
        out, err = capsys.readouterr()
        return json.loads(out) if "--json" in words and not code else out + err

    return run


def test_it_goes_on_exactly_with_dropout_and_average(runs):
    for name in ("adapter/dog.hypernetwork.safetensors",):
        assert (runs / "dog" / name).read_bytes() == (runs / "straight" / "dog" / name).read_bytes()
    states = [sorted((runs / run / "checkpoints/4").glob("*.safetensors")) for run in ("dog", "straight/dog")]
    assert [f.name for f in states[0]] == [f.name for f in states[1]]
    for one, other in zip(*states, strict=True):
        assert same_bits(read_tensors(one), read_tensors(other)), one.name


def test_what_lies_there(runs):
    assert {p.name for p in (runs / "dog/adapter").iterdir()} == {"dog.hypernetwork.safetensors", "README.md"}
    metadata = read_header(runs / "dog/adapter/dog.hypernetwork.safetensors").metadata
    assert metadata["tuner_weights"] == "ema"
    assert metadata["tuner_base"] == "toybox"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/hypernetwork"
    assert json.loads(metadata["hypernetwork"])["dropout_structure"] == [0, 0.3, 0.3, 0.0]


@pytest.mark.parametrize("run", ["dog", "flow"])
def test_inspect_and_generate_take_the_run(run, say, runs, sd35_folder):
    facts = say("inspect", run, "--json")
    assert (facts["kind"], facts["problem"]) == ("hypernetwork", None)
    assert facts["backbone"] == {"dog": "sd15", "flow": "sd35"}[run]
    text = say("inspect", run)
    assert re.search(r"networks +widths .*, layers 1 - 2 -", text)
    assert "tuner.load_adapter" in text
    base = [] if run == "dog" else ["--base", str(sd35_folder)]
    common = ["generate", "a red dog", "--steps", "2", "--size", "64", "--device", "cpu", *base]
    say(*common, "-a", f"{run}:1.0", "-o", f"{run}_on.png")
    say(*common, "-a", f"{run}:0", "-o", f"{run}_off.png")
    assert (runs / f"{run}_on.png").read_bytes() != (runs / f"{run}_off.png").read_bytes()


def test_export_and_import_are_a_circle(say, runs):
    assert "dog.pt" in say("export", "dog", "--to", "a1111")
    tree = torch.load(runs / "dog.pt", weights_only=True)
    assert {key for key in tree if type(key) is int} == {48, 96}
    made = say("import", "dog.pt", "--out", "back.safetensors", "--json")
    assert (made["sizes"], made["warnings"]) == ([48, 96], [])
    first = read_tensors(runs / "dog/adapter/dog.hypernetwork.safetensors")
    assert same_bits(first, read_tensors(runs / "back.safetensors"))
    assert say("inspect", "back.safetensors", "--json")["steps"] == 4
    warned = say("export", "dog", "--to", "a1111", "-o", "again.pt", "--json")["warnings"]
    assert "ComfyUI computes something else" in warned[0]


WRONG = {
    "kohya's keys": (["export", "dog", "--to", "kohya"], 2, "is a hypernetwork, which is not written for kohya"),
    "nobody's": (["export", "dog", "--to", "webui"], 2, "there is"),
    "another ending": (["export", "dog", "--to", "a1111", "-o", "x.safetensors"], 2, "does not end in .pt"),
    "of sd35": (["export", "flow", "--to", "a1111"], 65, "Stable Diffusion 1 alone"),
    "no pickle": (["import", "dog/adapter/dog.hypernetwork.safetensors"], 2, "is no pickle"),
    "nothing": (["import", "nothing.pt"], 65, "no such file"),
    "a folder": (["import", "folder.pt"], 65, "is a folder"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_said(kind, say, runs):
    (runs / "folder.pt").mkdir(exist_ok=True)
    words, code, said = WRONG[kind]
    out = say(*words, code=code)
    assert said in out
    assert "Traceback" not in out


@pytest.mark.parametrize("run", ["dog", "flow"])
def test_the_card_tells_the_truth(run, runs, monkeypatch):
    folder = runs / run / "adapter"
    text = (folder / "README.md").read_text()
    assert re.findall(r"^- (hypernetwork|lora)$", text, re.MULTILINE) == ["hypernetwork"]
    assert ("models/hypernetworks" in text) == (run == "dog")
    assert ("no other tool has hypernetworks" in text) == (run == "flow")
    if run == "dog":
        monkeypatch.chdir(folder)
        (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        block = block.replace("num_inference_steps=25", "num_inference_steps=1").replace(
            "image.save(", "image.resize((8, 8)).save("
        )
        exec(compile(block, "README.md", "exec"), {})
        (folder / "picture.png").unlink()


def test_two_of_them_are_refused(sd15_folder):
    with pytest.raises(ValueError, match="hypernetwork"):
        recipe({"name": "sd15", "model": "toybox"}, ["hypernetwork", "hypernetwork"])


def test_a_size_that_nothing_takes_is_refused_before_the_run(tmp_path):
    made = recipe({"name": "sd15", "model": "toybox"}, [{"name": "hypernetwork", "sizes": [96, 768]}])
    planned = tuner.plan(made)
    assert planned.refusals == ["adapters: unet hypernetwork 768 matches no layer; `tuner plan` lists what there is"]


def test_beside_a_lora_both_are_saved_and_load_together(tmp_path, monkeypatch):
    run = tmp_path / "both"
    made = recipe({"name": "sd15", "model": "toybox"}, ["hypernetwork", {"name": "lora", "rank": 2}], steps=2)
    done = tuner.run(made, run_dir=run)
    names = {p.name for p in done.adapter.iterdir()}
    assert names >= {
        "both.hypernetwork.safetensors",
        "pytorch_lora_weights.safetensors",
        "both.safetensors",
        "README.md",
    }
    text = (done.adapter / "README.md").read_text()
    assert "## LoRA" in text
    assert "- lora\n" in text
    assert "| rank | 2 |" in text
    assert "| hypernetwork | layers 1 - 2 - 1, widths 48, 96 |" in text
    model = made.backbone.load(device=torch.device("cpu"), dtype=torch.float32)
    pipe = model.pipeline()
    tuner.load_adapter(pipe, run, name="both")
    assert list(model.denoiser.hypernetworks.members) == ["both"]
    assert list(model.denoiser.peft_config) == ["both"]
    tuner.unload_adapter(pipe, "both")
    assert not hasattr(model.denoiser, "hypernetworks")
    assert not hasattr(model.denoiser, "peft_config")
