"""A LoRA on a tiny SD3.5-shaped model from the run to other people's tools: stop, go on, files, plain diffusers, CLI."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tuner
from tuner import toybox
from tuner.cli import call
from tuner.draws import Draws
from tuner.errors import Stopped
from tuner.formats.loaders import quiet_loaders
from tuner.formats.lora import DIFFUSERS_FILE
from tuner.recipe import Recipe
from tuner.watch import Watcher


def recipe(folder: Path, steps: int) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": {"name": "sd35", "model": str(folder), "t5_length": 20},
            "adapters": {"name": "lora", "rank": 4, "alpha": 2, "text_encoder_lr": 1e-2},
            "task": {"name": "finetune"},
            "data": {
                "resolution": 64,
                "bucket_step": 16,
                "images": {"path": str(toybox.pictures()), "caption": "a photo of a dog"},
            },
            "train": {"steps": steps, "batch": 2, "lr": 2e-2, "device": "cpu", "precision": "fp32"},
            "sample": {"every": None, "prompts": []},
            "save": {"every": 2},
            "log": {"every": 1},
        }
    )


def say(*words: object, cwd: Path, code: int = 0) -> tuple[str, str]:
    """The command in this process: what it printed, and its messages."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        given = call([str(word) for word in words])
    assert given == code, err.getvalue()
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()


class Stopper(Watcher):
    """Presses Ctrl-C when the run tells of its first step."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def finished(sd35_folder, tmp_path_factory) -> Path:
    """A working directory with `runs/dog`, which was stopped before its end and went on."""
    place = tmp_path_factory.mktemp("work")
    run_dir = place / "runs/dog"
    with pytest.raises(Stopped):
        tuner.run(recipe(sd35_folder, 3), run_dir=run_dir, watchers=[Stopper()])
    assert json.loads((run_dir / "status.json").read_text())["state"] == "stopped"
    assert not (run_dir / "adapter").exists()
    assert tuner.run(recipe(sd35_folder, 3), run_dir=run_dir).step == 3
    say("export", "runs/dog", "--to", "kohya", "-o", "k.safetensors", cwd=place)
    return place


def test_a_stopped_run_ends_with_the_weights_of_one_that_never_stopped(finished, sd35_folder, tmp_path):
    tuner.run(recipe(sd35_folder, 3), run_dir=tmp_path / "dog")
    one, other = (load_file(run / "adapter" / DIFFUSERS_FILE) for run in (finished / "runs/dog", tmp_path / "dog"))
    assert one.keys() == other.keys()
    assert {key.split(".")[0] for key in one} == {"transformer", "text_encoder", "text_encoder_2"}
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_files_are_there_and_equal(finished):
    folder = finished / "runs/dog/adapter"
    assert (folder / DIFFUSERS_FILE).read_bytes() == (folder / "dog.safetensors").read_bytes()
    assert json.loads((folder / "dog.json").read_text())["sd version"] == "SD3"
    card = (folder / "README.md").read_text("utf-8")
    assert "StableDiffusion3Pipeline" in card
    assert "- sd3\n" in card
    assert (finished / "runs/dog/checkpoints/2/adapter" / DIFFUSERS_FILE).is_file()


def predict(pipe) -> torch.Tensor:
    with torch.no_grad():
        words = {f"prompt{n}": "a photo of a dog" for n in ("", "_2", "_3")}
        text, _, pooled, _ = pipe.encode_prompt(**words, do_classifier_free_guidance=False, max_sequence_length=20)
        x = torch.from_numpy(Draws(3).normal((1, 16, 8, 8), "x"))
        return pipe.transformer(x, text, pooled, torch.tensor([500.0]), return_dict=False)[0]


def test_plain_diffusers_and_the_exported_file_say_the_same(finished, sd35_folder):
    from diffusers import StableDiffusion3Pipeline

    out, err = say("export", "runs/dog", "--to", "kohya", cwd=finished)
    assert "DIFFUSERS IGNORES THIS FILE" in out + err
    assert "31 in the transformer" in out + err
    assert (finished / "dog_kohya.safetensors").read_bytes() == (finished / "k.safetensors").read_bytes()
    say("export", "dog_kohya.safetensors", "--to", "diffusers", "--out", "back.safetensors", cwd=finished)
    found = []
    for folder, file in ((finished / "runs/dog/adapter", DIFFUSERS_FILE), (finished, "back.safetensors")):
        with quiet_loaders():
            pipe = StableDiffusion3Pipeline.from_pretrained(str(sd35_folder), local_files_only=True)
        before = predict(pipe)
        pipe.load_lora_weights(str(folder), weight_name=file)
        found.append(predict(pipe))
        assert float((found[-1] - before).abs().max()) > 1e-4
    assert float((found[0] - found[1]).abs().max()) < 1e-5


def test_the_command_line_knows_the_base_and_draws(finished, sd35_folder):
    told = json.loads(say("inspect", "runs/dog", "--json", cwd=finished)[0])
    assert (told["backbone"], told["base"], told["resolution"]) == ("sd35", sd35_folder.name, 64)
    assert told["steps"] == 3
    assert "sd35" in told["recipe"]
    pictures = []
    for adapter in ("runs/dog", "runs/dog/adapter/dog.safetensors", "k.safetensors", "k.safetensors:0"):
        words = ["--adapter", adapter, "--base", sd35_folder, "--steps", 2, "--json", "a photo of a dog"]
        made = json.loads(say("generate", *words, cwd=finished)[0])
        with Image.open(finished / made["pictures"][0]["file"]) as picture:
            assert picture.size == (64, 64)
            pictures.append(torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8).int())
    assert all(int((picture - pictures[0]).abs().max()) <= 1 for picture in pictures[:3])
    assert not torch.equal(pictures[0], pictures[3])


def test_eval_draws_with_and_without(finished):
    """By the toybox's judges, which need no download; what they say of a random model is of no interest."""
    few = ["--count", 2, "--per-prompt", 1, "--steps", 2, "--prompts", "toybox"]
    judges = ["--clip", toybox.judge("clip"), "--dino", toybox.judge("dino")]
    told = json.loads(say("eval", "runs/dog", *few, *judges, "--class", "a dog", "--json", cwd=finished)[0])
    assert told["rows"]
    assert all(row["adapter"] is not None for row in told["rows"] if row["base"] is not None)
    assert (finished / "runs/dog/evaluation/sheet.png").is_file()


def test_the_text_is_read_as_in_training(finished):
    from tuner.drawing import Drawing, parse_adapter

    for path in (finished / "runs/dog", finished / "k.safetensors"):
        planned = Drawing.plan([parse_adapter(str(path))], "some/base", "cpu")
        assert (planned.backbone.key, planned.backbone.model_dump()["t5_length"]) == ("sd35", 20)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["runs/dog", "--to", "diffusers"], 2, "has the keys of diffusers already"),
        (["runs/dog", "--to", "a1111"], 2, "AUTOMATIC1111 reads a part at most"),
        (["runs/dog", "--to", "kohya", "-o", "x.pt"], 2, "does not end in .safetensors"),
        (["runs/cat", "--to", "kohya"], 65, "no such file or folder"),
        (["cut.safetensors", "--to", "kohya"], 65, "cut off|is not valid|does not lie|describes"),
    ],
)
def test_export_says_what_is_wrong(finished, words, code, said):
    whole = (finished / "runs/dog/adapter" / DIFFUSERS_FILE).read_bytes()
    (finished / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    out, err = say("export", *words, cwd=finished, code=code)
    assert re.search(said, " ".join((out + err).split()))


@pytest.mark.parametrize(
    ("adapter", "base", "said"),
    [
        ("runs/dog", "toybox-sd15", "SD3|Stable Diffusion 3|transformer"),
        ("flux.safetensors", "any", "FLUX.*Stable Diffusion 1.5, 3.5 or 3"),
        ("runs/dog", None, "local model named 'model'.*--base"),
    ],
)
def test_an_adapter_on_another_base_is_refused_with_what_to_do(finished, adapter, base, said):
    flux = {f"transformer.single_transformer_blocks.0.attn.to_q.lora_{s}.weight": torch.ones(2, 2) for s in "AB"}
    save_file(flux, finished / "flux.safetensors")
    where = ["--base", toybox.folder("sd15") if base == "toybox-sd15" else base] if base else []
    words = ["--adapter", adapter, *where, "--device", "cpu", "--size", 64, "--steps", 1, "a dog"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(finished), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(["generate", *map(str, words)])
    told = " ".join((out.getvalue() + err.getvalue()).split())
    assert code in (2, 65), told
    assert "Traceback" not in told
    assert re.search(said, told)
