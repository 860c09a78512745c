"""From the command line to a picture, on the model that ships here: run, stop, go on, inspect, generate."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tuner.cli import call

SMALL = ["data.prior.generate=2", "data.prior.steps=2", "sample.steps=2"]


@dataclass
class Said:
    stdout: str
    stderr: str


def tuner(*words, cwd, code=0) -> Said:
    """The command in this process, which has imported torch already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        given = call(list(words))
    said = Said(out.getvalue(), err.getvalue())
    assert given == code, said
    assert "Traceback" not in said.stderr
    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory, own_cache):
    """A directory with one finished rehearsal, and what the command said."""
    place = tmp_path_factory.mktemp("stranger")
    return place, tuner("run", "--rehearse", "train.steps=4", *SMALL, "log.to=tensorboard", cwd=place)


def test_a_rehearsal_tells_what_it_does_and_what_is_next(finished):
    place, done = finished
    lines = done.stdout.splitlines()
    assert lines[0].startswith("rehearsal of dreambooth_lora: backbone.model=toybox")
    assert "stand in" in lines[1]
    assert any(line.startswith("training 4 of 4") and "loss" in line for line in lines)
    assert any(line.startswith("done: 4 steps") for line in lines)
    assert lines[-1].endswith('tuner generate --adapter runs/dreambooth_lora-1 "a prompt"')
    assert (place / "runs" / "dreambooth_lora-1" / "adapter" / "pytorch_lora_weights.safetensors").is_file()


def test_trackers_of_the_recipe_see_the_run(finished):
    place, _ = finished
    assert list((place / "runs" / "dreambooth_lora-1" / "tensorboard").glob("events.*"))


def test_what_came_out_draws_pictures(finished):
    place, _ = finished
    words = ["--adapter", "runs/dreambooth_lora-1:0.8", "--steps", "2", "--json", "a photo of sks dog"]
    made = json.loads(tuner("generate", *words, cwd=place).stdout)
    assert made["base"] == "toybox"
    file = place / made["pictures"][0]["file"]
    with Image.open(file) as picture:
        assert picture.size == (64, 64)
        assert picture.text["parameters"].startswith("a photo of sks dog\nNegative prompt: \nSteps: 2")
        assert str(place) not in picture.text["parameters"]
        with_adapter = picture.tobytes()
    plain = json.loads(tuner("generate", "--base", "toybox", "--size", "64", *words[2:], cwd=place).stdout)
    with Image.open(place / plain["pictures"][0]["file"]) as picture:
        assert picture.tobytes() != with_adapter


def test_two_adapters_add_up(finished):
    """Half and half of the same adapter is the whole of it."""
    place, _ = finished

    def draw(*strengths, out):
        run = "runs/dreambooth_lora-1"
        adapters = [word for s in strengths for word in ("--adapter", f"{run}:{s}")]
        tuner("generate", *adapters, "--steps", "2", "--out", out, "a photo of sks dog", cwd=place)
        with Image.open(place / out) as picture:
            return picture.convert("RGB").tobytes()

    whole, halves = draw(1.0, out="whole.png"), draw(0.5, 0.5, out="halves.png")
    assert max(abs(a - b) for a, b in zip(whole, halves, strict=True)) <= 1


def test_a_base_with_other_weights_is_refused_unless_named(finished, tmp_path, monkeypatch):
    from tuner import drawing
    from tuner.drawing import Drawing, parse_adapter
    from tuner.errors import DataError
    from tuner.sampling import Shot
    from tuner.watch import Watcher

    class Ears(Watcher):
        def __init__(self):
            self.heard = []

        def warn(self, text):
            self.heard.append(text)

    place, _ = finished
    adapter = parse_adapter(str(place / "runs" / "dreambooth_lora-1"))
    true = drawing.all_facts

    def other(path):
        return true(path) | {"base_identity": "0" * 64}

    monkeypatch.setattr(drawing, "all_facts", other)
    shot = Shot("a dog", size=(64, 64), steps=1)
    with pytest.raises(DataError, match="trained on other weights"):
        list(drawing.draw(Drawing.plan([adapter], None, "cpu"), [shot], Ears()))
    ears = Ears()
    assert len(list(drawing.draw(Drawing.plan([adapter], "toybox", "cpu"), [shot], ears))) == 1
    assert "other weights" in ears.heard[0]


def test_a_finished_run_is_refused_and_a_longer_one_goes_on(finished):
    place, _ = finished
    where = ["--run-dir", "runs/dreambooth_lora-1"]
    words = ["run", "--rehearse", *SMALL, "log.to=tensorboard", *where]
    again = tuner(*words, "train.steps=4", cwd=place, code=2)
    assert "is finished" in again.stderr
    longer = tuner(*words, "train.steps=5", "--json", cwd=place)
    assert json.loads(longer.stdout) == {
        "run_dir": "runs/dreambooth_lora-1",
        "adapter": "runs/dreambooth_lora-1/adapter",
        "step": 5,
        "best": None,
    }
    assert "going on from step 4" in longer.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_a_signal_saves_and_says_how_to_go_on(number, code, tmp_path, own_cache):
    command = [sys.executable, "-m", "tuner", "run", "--rehearse", "train.steps=100000", "save.every=null", *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    status = tmp_path / "runs" / "dreambooth_lora-1" / "status.json"
    try:
        wait_for(lambda: status.is_file() and json.loads(status.read_text())["step"] > 2, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == code, err
    message, hint = err.splitlines()  # and not a word of the libraries below
    assert "holds the state of step" in message
    assert "start the same command again" in hint
    assert list((tmp_path / "runs" / "dreambooth_lora-1" / "checkpoints").iterdir())


@pytest.mark.slow
def test_stop_by_command_is_0(tmp_path, own_cache):
    command = [sys.executable, "-m", "tuner", "run", "--rehearse", "train.steps=100000", "save.every=null", *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    status = tmp_path / "runs" / "dreambooth_lora-1" / "status.json"
    try:
        wait_for(lambda: status.is_file() and json.loads(status.read_text())["step"] > 2, process)
        assert "asked" in tuner("stop", cwd=tmp_path).stdout
        _, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 0, err
    (listed,) = json.loads(tuner("runs", "--json", cwd=tmp_path).stdout)
    assert listed["state"] == "stopped"


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[1]
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never came so far")


def test_a_run_that_will_not_fit_is_refused(tmp_path, own_cache):
    words = ["run", "--rehearse", "adapters.0.where=[nonsense]", *SMALL]
    assert "matches no layer" in tuner(*words, cwd=tmp_path, code=2).stderr


def test_a_missing_tracker_is_named_at_once(tmp_path, own_cache):
    pytest.importorskip("tensorboard")
    try:
        import wandb  # noqa: F401
    except ImportError:
        done = tuner("run", "--rehearse", "log.to=wandb", cwd=tmp_path, code=2)
        assert "diffusion-tuner[track]" in done.stderr
        assert not Path(tmp_path / "runs").exists()
