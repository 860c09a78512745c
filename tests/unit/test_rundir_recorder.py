"""What a run does reaches its directory: at once where it matters, by and by otherwise, never with a token in it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tuner import recorder as module
from tuner.errors import DataError, Stopped, StorageError
from tuner.lines import read_metrics
from tuner.recorder import Recorder
from tuner.rundir import RunDir

TOKEN = "hf_" + "aB3" * 8


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path, "dog")


def wait_for(condition):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 3 s")


def test_states_reach_the_disk_at_once(run):
    with Recorder(run, total=100) as recorder:
        assert run.status().state == "starting"
        for name in ("caching", "training", "sampling", "saving"):
            recorder.phase(name, 10, 2)
            assert (run.status().state, run.status().phase) == (name, name)
        recorder.phase("class pictures", 4)
        assert (run.status().state, run.status().phase, run.status().phase_total) == ("saving", "class pictures", 4)
    assert run.status().state == "done"
    assert run.finished


def test_steps_are_those_of_training(run):
    with Recorder(run, step=20, total=100) as recorder:
        recorder.phase("caching", 7)
        recorder.progress(5)
        assert (recorder.status.step, recorder.status.phase_done) == (20, 5)
        recorder.phase("training", 100, 20)
        recorder.progress(21)
        recorder.phase("sampling", 3)
        recorder.progress(1)
        status = recorder.status
    assert (status.step, status.total, status.phase_done, status.phase_total) == (21, 100, 1, 3)


def test_progress_reaches_the_disk_by_itself_and_the_heart_beats(run, monkeypatch):
    monkeypatch.setattr(module, "_TICK_S", 0.02)
    monkeypatch.setattr(module, "_BEAT_S", 0.1)
    with Recorder(run) as recorder:
        recorder.phase("training", 50)
        for step in range(1, 21):
            recorder.progress(step)
            time.sleep(0.01)
        wait_for(lambda: run.status().step == 20)
        status = run.status()
        assert status.it_s is not None
        assert 20 < status.it_s < 101
        assert status.eta_s is not None
        assert 0.1 < status.eta_s < 3
        assert status.memory["process"] > 1
        before = run.status().heartbeat
        wait_for(lambda: run.status().heartbeat > before)  # although nothing happens


def test_progress_writes_nothing_itself(run, monkeypatch):
    with Recorder(run) as recorder:
        recorder.phase("training", 10**6)
        writes = []
        monkeypatch.setattr(module, "write_status", lambda path, status: writes.append(status))
        begin = time.perf_counter()
        for step in range(10_000):
            recorder.progress(step)
        took = time.perf_counter() - begin
        assert len(writes) <= 1 + took / 0.5
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("error", "state", "fault"),
    [
        (DataError(f"photos/: nothing there {TOKEN}", "add some"), "failed", ("data", "add some")),
        (StorageError("disk full", "free space"), "failed", ("storage", "free space")),
        (ZeroDivisionError("oops"), "failed", ("bug", None)),
        (Stopped("stopped at step 5", 15), "stopped", None),
        (KeyboardInterrupt(), "stopped", None),
    ],
)
def test_how_a_run_ended_is_told(run, error, state, fault):
    with pytest.raises(type(error)), Recorder(run):
        raise error
    status = run.status()
    assert status.state == state
    if fault is None:
        assert status.error is None
    else:
        assert status.error.kind == fault[0]
        assert fault[1] is None or status.error.hint == fault[1]
        assert status.error.message in run.log_file.read_text()
    assert ("Traceback" in run.log_file.read_text()) == (fault is not None and fault[0] == "bug")
    assert TOKEN not in run.status_file.read_text() + run.log_file.read_text()


def test_a_resumed_run_has_no_old_error(run):
    with pytest.raises(DataError), Recorder(run):
        raise DataError("x")
    with Recorder(run):
        assert run.status().error is None


def test_metrics_samples_and_log(run):
    with Recorder(run) as recorder:
        recorder.metrics(10, {"loss": 0.5, "lr": 1e-4, "memory_mb": 12.0})
        recorder.say("3 pictures\nin 2 buckets")
        recorder.warn(f"token {TOKEN}")
        (run.samples / "10").mkdir(parents=True)
        recorder.samples(10, [("a dog", run.samples / "10" / "0.png"), (f"é {TOKEN}", run.samples / "10" / "1.png")])
        recorder.saved(10, [run.adapter / "x.safetensors"])
        assert recorder.status.memory == run.status().memory
        recorder.phase("training", 3)
        assert run.status().memory["device"] == 12.0
    assert read_metrics(run.metrics_file) == {10: {"loss": 0.5, "lr": 1e-4, "memory_mb": 12.0}}
    rows = [json.loads(line) for line in (run.samples / "10" / "index.jsonl").read_text().splitlines()]
    assert [(row["index"], row["prompt"], row["file"]) for row in rows] == [
        (0, "a dog", "0.png"),
        (1, "é hf_***", "1.png"),
    ]
    lines = run.log_file.read_text().splitlines()
    assert all(line[4] == "-" and line[10] == "T" for line in lines)
    for words in ("loss 0.5", "3 pictures", "in 2 buckets", "warning: token hf_***", "2 samples", "x.safetensors"):
        assert any(words in line for line in lines)


def test_a_full_disk_does_not_end_the_heartbeat(run, monkeypatch):
    monkeypatch.setattr(module, "_TICK_S", 0.02)
    monkeypatch.setattr(module, "_BEAT_S", 0.05)
    honest, refused = module.write_status, []

    def full(path, status):
        refused.append(path)
        raise StorageError("disk full")

    with Recorder(run) as recorder:
        monkeypatch.setattr(module, "write_status", full)
        wait_for(lambda: len(refused) > 2)
        with pytest.raises(StorageError):
            recorder.phase("saving")  # whoever changes the state is told
        monkeypatch.setattr(module, "write_status", honest)
        before = run.status().heartbeat
        wait_for(lambda: run.status().heartbeat > before)
    assert run.status().state == "done"


def test_a_failure_that_cannot_be_written_down_is_still_the_failure(run, monkeypatch):
    def full(path, status):
        raise StorageError("disk full, again")

    recorder = Recorder(run)
    monkeypatch.setattr(module, "write_status", full)
    with pytest.raises(StorageError, match="checkpoint"), recorder:
        raise StorageError("no space for the checkpoint")


def test_recording_needs_no_torch():
    heavy = ("torch", "numpy", "safetensors", "pydantic", "psutil")
    code = f"import sys, tuner.rundir, tuner.checkpoint, tuner.signals; print([m for m in sys.modules if m in {heavy}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
