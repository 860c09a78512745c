"""Readers learn what is true now: a run whose process is gone reads as interrupted, whatever its file says."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
import time

import pytest

from tuner.status import LIVE, STATES, Fault, Status, of_this_process, read_status, write_status


def test_a_status_comes_back(tmp_path):
    status = of_this_process(
        "dog-1", state="training", phase="training", step=3, total=10, eta_s=1.5, memory={"process": 9.0}
    )
    write_status(tmp_path / "status.json", status)
    assert read_status(tmp_path / "status.json") == status
    failed = dataclasses.replace(status, state="failed", error=Fault("storage", "disk full", "free space"))
    write_status(tmp_path / "status.json", failed)
    assert read_status(tmp_path / "status.json") == failed


def test_the_published_keys(tmp_path):
    write_status(tmp_path / "s", of_this_process("x", error=Fault("data", "m", "h")))
    tree = json.loads((tmp_path / "s").read_text())
    published = "run state phase step total eta_s it_s memory pid pid_create_time heartbeat started error"
    assert set(published.split()) <= tree.keys()
    assert tree["error"] == {"kind": "data", "message": "m", "hint": "h"}


@pytest.mark.parametrize("state", STATES)
def test_a_dead_process_interrupts_only_what_was_going_on(tmp_path, state):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    status = of_this_process("x", state=state, pid=gone.pid, heartbeat=time.time())
    write_status(tmp_path / "s", status)
    read = read_status(tmp_path / "s")
    assert read is not None
    assert read.state == ("interrupted" if state in LIVE else state)


def test_a_pid_that_came_round_again_is_not_the_run(tmp_path):
    mine = of_this_process("x")
    assert mine.pid_create_time is not None
    for shift, state in [(0, "starting"), (1, "starting"), (-60, "interrupted"), (60, "interrupted")]:
        write_status(tmp_path / "s", dataclasses.replace(mine, pid_create_time=mine.pid_create_time + shift))
        read = read_status(tmp_path / "s")
        assert read is not None
        assert read.state == state


def test_a_killed_process_that_nobody_waited_for_is_gone(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from tuner.status import *\n"
        "write_status(Path(sys.argv[1]), of_this_process('x')); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        read = read_status(tmp_path / "s")
        assert read is not None
        assert (read.state, read.pid) == ("starting", child.pid)
        child.kill()
        for _ in range(200):  # a zombie until its parent asks
            read = read_status(tmp_path / "s")
            assert read is not None
            if read.state == "interrupted":
                break
            time.sleep(0.01)
        assert read.state == "interrupted"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize(("silence", "state"), [(1, "training"), (59, "training"), (61, "interrupted")])
def test_on_another_machine_the_heartbeat_decides(tmp_path, silence, state):
    status = of_this_process("x", state="training", heartbeat=1000.0)
    write_status(tmp_path / "s", dataclasses.replace(status, host="not-" + platform.node()))
    read = read_status(tmp_path / "s", now=1000.0 + silence)
    assert read is not None
    assert read.state == state


def test_a_live_process_that_is_silent_is_alive(tmp_path):
    """A long step, or a machine that slept."""
    write_status(tmp_path / "s", of_this_process("x", state="training", heartbeat=0.0))
    read = read_status(tmp_path / "s")
    assert read is not None
    assert read.state == "training"


GARBAGE = ["", "{", "[]", "null", "3", '{"state": "training"}', '{"run": "x"}', '{"run": "x", "state": "dancing"}']
WRONG = ['{"run": "x", "state": "done", "step": "3"}', '{"run": "x", "state": "done", "pid": true}', "[" * 100_000]
WRONG += ['{"run": "x", "state": "failed", "error": {"kind": "x"}}', '{"run": "x", "state": "training", "pid": 1.5}']


@pytest.mark.parametrize("text", [*GARBAGE, *WRONG], ids=range(len(GARBAGE + WRONG)))
def test_garbage_is_no_status(tmp_path, text):
    (tmp_path / "s").write_text(text)
    assert read_status(tmp_path / "s") is None


def test_odd_numbers_do_no_harm(tmp_path):
    for pid in (-1, 0, 10**30):
        (tmp_path / "s").write_text(json.dumps({"run": "x", "state": "training", "pid": pid, "host": platform.node()}))
        read = read_status(tmp_path / "s")
        assert read is not None
        assert read.state == "interrupted"
    assert read_status(tmp_path / "nowhere") is None


def test_what_a_later_version_adds_is_passed_over(tmp_path):
    (tmp_path / "s").write_text(json.dumps({"run": "x", "state": "done", "mood": "good"}))
    assert read_status(tmp_path / "s") == Status("x", state="done")
