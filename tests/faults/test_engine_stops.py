"""Signals and commands end a run at the next step boundary with its state saved, and what goes on is the same run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from kill_harness import NO_PROOF, leftovers, recipe, unequal, weights

NUMBERS = {"SIGINT": 130, "SIGTERM": 143}


def status(folder):
    return json.loads((folder / "run" / "status.json").read_text())


def steps(folder):
    return sorted(int(p.name) for p in (folder / "run" / "checkpoints").glob("*"))


def same_as(undisturbed, folder):
    """Equal but for the log line at the step where it stopped, which the undisturbed run has none of."""
    expected, found = (weights(place / "run") for place in (undisturbed, folder))
    extra = {name for name in found if name.startswith("metric ") and name not in expected}
    return not unequal(expected, {k: v for k, v in found.items() if k not in extra}) and not leftovers(folder / "run")


@pytest.mark.parametrize(
    ("name", "phase", "event", "saved"),
    [
        ("SIGINT", "training", 3, [3]),
        ("SIGTERM", "training", 3, [3]),
        ("SIGTERM", "training", 5, [4, 5]),
        ("SIGINT", "caching", 4, []),
        ("SIGTERM", "class pictures", 1, []),
        ("SIGTERM", "sampling", 0, [1]),
        ("SIGINT", "saving", 0, [4, 5]),
    ],
)
def test_a_signal(name, phase, event, saved, undisturbed, fork_server, seed_cache, drawn_pictures, tmp_path):
    import shutil

    cache = tmp_path / "cache"
    shutil.copytree(seed_cache, cache)
    tree = recipe(drawn_pictures, **{"train.steps": 9})
    hooks = {**NO_PROOF, "signal_at": {"phase": phase, "event": event, "signal": name}}
    end = fork_server.run(tree, tmp_path, cache=cache, hooks=hooks)
    assert (end.signal, end.code, end.kind) == (None, NUMBERS[name], "stopped"), end
    assert status(tmp_path)["state"] == "stopped"
    assert steps(tmp_path) == saved
    end = fork_server.run(tree, tmp_path, cache=cache, hooks=NO_PROOF)
    assert end.code == 0, end
    assert same_as(undisturbed, tmp_path)
    assert (tmp_path / "run" / "samples" / "5" / "0.png").is_file()


@pytest.mark.parametrize(
    ("command", "saved", "ends"),
    [("stop", [3], True), ("stop-now", [], True), ("save", [3, 4, 8, 9], False), ("sample", [4, 8, 9], False)],
)
def test_a_command(command, saved, ends, undisturbed, fork_server, shared_cache, drawn_pictures, tmp_path):
    tree = recipe(drawn_pictures, **{"train.steps": 9})
    where = {"phase": "training", "event": 3, "command": command, "run_dir": str(tmp_path / "run")}
    end = fork_server.run(tree, tmp_path, cache=shared_cache, hooks={**NO_PROOF, "command_at": where})
    assert (end.code, end.kind) == (0, "stopped" if ends else ""), end
    assert status(tmp_path)["state"] == ("stopped" if ends else "done")
    assert steps(tmp_path) == saved
    assert (tmp_path / "run" / "samples" / "3").is_dir() == (command == "sample")
    if ends:
        end = fork_server.run(tree, tmp_path, cache=shared_cache, hooks=NO_PROOF)
        assert end.code == 0, end
    assert same_as(undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_the_command_line_says_it_in_its_exit_code(name, shared_cache, drawn_pictures, tmp_path):
    """A real process, a real signal from outside."""
    (tmp_path / "small.yaml").write_text(json.dumps(recipe(drawn_pictures, **{"train.steps": 400, "sample": None})))
    environ = {**os.environ, "TUNER_CACHE": str(shared_cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tuner", "run", str(tmp_path / "small.yaml"), "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "4").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == NUMBERS[name], out + err
    assert time.monotonic() - asked < 8
    assert "Traceback" not in out + err
    assert status(tmp_path)["state"] == "stopped"
    assert steps(tmp_path)[-1] >= 4
    assert not leftovers(tmp_path / "run")
