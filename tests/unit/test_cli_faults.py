"""Every fault leaves as one message, one hint and the exit code of its kind; a traceback only where it was asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tuner import errors
from tuner.cli import call
from tuner.commands import faults

TOKEN = "hf_" + "a1B2c3D4e5F6g7H8"


@pytest.fixture
def raising(monkeypatch):
    """Let `tuner ls` raise what the test says."""

    def arrange(error):
        def shipped():
            raise error

        monkeypatch.setattr("tuner.shipped.shipped", shipped)

    return arrange


CODES = [
    (errors.TunerError("it failed", "do this"), 1),
    (errors.UsageError("it failed", "do this"), 2),
    (errors.RecipeError(["a.yaml:1:1: it failed"], "do this"), 2),
    (errors.DataError("it failed", "do this"), 65),
    (errors.NumbersError("it failed", "do this"), 65),
    (errors.StorageError("it failed", "do this"), 74),
    (errors.LockedError("it failed", "do this"), 75),
    (errors.Stopped("it failed", signal.SIGINT), 130),
    (errors.Stopped("it failed", signal.SIGTERM), 143),
    (errors.Stopped("it failed"), 0),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_each_kind_has_its_code(raising, capsys, error, code):
    raising(error)
    assert call(["ls"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "it failed" in err
    assert f"-> {error.hint}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_as_json_it_is_one_document_on_stdout(raising, capsys, error, code):
    raising(error)
    assert call(["ls", "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {"error": {"kind": error.kind, "message": error.message, "hint": error.hint}}


def test_a_fault_of_ours_says_so_and_keeps_the_traceback(raising, capsys, monkeypatch):
    monkeypatch.delenv("TUNER_DEBUG", raising=False)
    raising(KeyError(f"oops {TOKEN}"))
    assert call(["ls"]) == 1
    err = capsys.readouterr().err
    assert "this is a fault of tuner; details in " in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2
    file = Path(err.rsplit("details in ", 1)[1].strip())
    text = file.read_text()
    file.unlink()
    assert "Traceback" in text
    assert "KeyError" in text
    assert TOKEN not in text + err
    assert "hf_***" in text


def test_debugging_shows_the_traceback(raising, capsys, monkeypatch):
    monkeypatch.setenv("TUNER_DEBUG", "1")
    raising(KeyError("oops"))
    assert call(["ls"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_no_token_is_ever_printed(raising, capsys):
    raising(errors.DataError(f"the Hub refused {TOKEN}", f"look at {TOKEN}"))
    call(["ls"])
    call(["ls", "--json"])
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    assert (out + err).count("hf_***") == 4


def test_an_operating_system_error_names_its_file(raising, capsys):
    raising(PermissionError(13, "Permission denied", "/some/where"))
    assert call(["ls"]) == 74
    assert "/some/where: permission denied" in capsys.readouterr().err


def test_running_out_of_memory_says_what_to_change(raising, capsys):
    class OutOfMemoryError(RuntimeError):
        pass

    raising(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more"))
    assert call(["ls"]) == 1
    err = capsys.readouterr().err
    assert "out of memory" in err
    assert "gradient_checkpointing" in err


def test_ctrl_c_is_130(raising, capsys):
    raising(KeyboardInterrupt())
    assert call(["ls"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cheeck"], "Did you mean 'check'?"),
        (["run", "--rehers"], "--rehearse"),
        (["cat"], "missing argument 'recipe'"),
        (["cache", "ll"], "no such command 'll'"),
        (["stop", "--root"], "requires an argument"),
        (["plan", "dreambooth_lora", "train.stps=3"], "did you mean 'steps'?"),
        (["plan", "dreamboth_lora"], "did you mean dreambooth_lora or "),
        (["run"], "no recipe is named"),
        (["check", "lora", "steps"], "'steps' is not a change to the recipe"),
        (["generate", "a dog"], "neither a base nor an adapter"),
        (["generate", "--size", "5o", "--base", "toybox", "a dog"], "is no size"),
        (["generate", "--scheduler", "ddmi", "--base", "toybox", "a dog"], "unknown scheduler"),
        (["stop", "nosuch"], "there is no run 'nosuch'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_is_2_and_says_what_was_meant(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said.lower() in err.lower()
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", [["cheeck", "--json"], ["run", "--json"], ["run", "--json", "--nonsense"]], ids=" ".join
)
def test_misuse_is_json_too(words, capsys):
    assert call(words) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "usage"


def test_a_reader_that_goes_away_is_no_fault(tmp_path):
    command = f"{sys.executable} -m tuner schema | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode in (0, faults.PIPE)
    assert done.stderr == ""


def test_a_reader_that_was_never_there(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "schema"], stdout=write, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(write)
    assert done.returncode == faults.PIPE
    assert done.stderr == b""


def test_details_survive_without_a_temporary_folder(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(faults.tempfile, "mkstemp", full)
    assert "TUNER_DEBUG=1" in str(faults.write_details(ValueError("x")))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_74(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tuner", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 74
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
