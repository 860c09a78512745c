"""Run directories: a number of one's own, nothing foreign overwritten, a summary of whatever lies there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import control
from tuner.errors import LockedError, StorageError, UsageError
from tuner.lines import LineWriter, metric_rows
from tuner.rundir import Recorder, RunDir, differences, flatten, runs
from tuner.status import Status, of_this_process, write_status


def test_numbers_go_up_and_are_not_reused(tmp_path):
    names = [RunDir.create(tmp_path / "runs", "dog").path.name for _ in range(3)]
    assert names == ["dog-1", "dog-2", "dog-3"]
    (tmp_path / "runs" / "dog-2").rmdir()
    (tmp_path / "runs" / "dog-x").mkdir()
    (tmp_path / "runs" / "dog-9").write_text("a file is in the way")
    assert RunDir.create(tmp_path / "runs", "dog").path.name == "dog-10"
    assert RunDir.create(tmp_path / "runs", "do").path.name == "do-1"
    assert RunDir.create(tmp_path / "runs", "../a b/c").path == tmp_path / "runs" / "a-b-c-1"
    assert RunDir.create(tmp_path / "runs", "..").path == tmp_path / "runs" / "run-1"


def test_concurrent_starts_get_different_directories(tmp_path):
    script = (
        "import sys; from pathlib import Path; from tuner.rundir import RunDir\n"
        "for _ in range(20): print(RunDir.create(Path(sys.argv[1]), 'dog').path.name)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert sorted(names) == sorted(f"dog-{n}" for n in range(1, 61))


def test_a_directory_that_appears_after_the_look_is_not_shared(tmp_path, monkeypatch):
    for _ in range(2):
        RunDir.create(tmp_path, "dog")
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda _: iter(()))
    assert RunDir.create(tmp_path, "dog").path.name == "dog-3"


def test_a_place_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.jpg").write_text("")
    (tmp_path / "photos" / "recipe.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"dog\.jpg and 1 more") as caught:
        RunDir.open(tmp_path / "photos")
    assert caught.value.exit_code == 2
    assert sorted(entry.name for entry in (tmp_path / "photos").iterdir()) == ["dog.jpg", "recipe.yaml"]
    with pytest.raises(UsageError, match="is a file"):
        RunDir.open(tmp_path / "photos" / "dog.jpg")


def test_new_empty_and_earlier_places_are_taken(tmp_path):
    run = RunDir.open(tmp_path / "a" / "b")
    assert run.path.is_dir()
    assert not run.is_run
    (run.path / ".DS_Store").write_text("")
    RunDir.open(run.path)
    with run.lock():
        pass
    (run.path / "identity.json").write_text("{}")  # killed before it wrote its recipe
    RunDir.open(run.path)
    run.write_recipe("given", "resolved")
    assert RunDir.open(run.path).is_run
    assert (run.recipe_file.read_text(), run.resolved_file.read_text()) == ("given", "resolved")


def test_owning_a_run_tidies_it(tmp_path):
    run = RunDir.create(tmp_path, "dog")
    places = [run.path, run.checkpoints, run.checkpoints / "20", run.samples / "20", run.path / "control"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / ".tmp-x-12-0123abcd").write_text("half")
    control.request(run.path, "stop")  # meant for the process that is gone
    with run.lock():
        assert not [path for place in places for path in place.iterdir() if path.name.startswith(".tmp")]
        assert run.control.take() == []
        with pytest.raises(LockedError, match=str(os.getpid())), run.lock():
            pass
        control.request(run.path, "save")
        assert run.control.take() == ["save"]
    with run.lock():
        pass


def test_a_refused_owner_tidies_nothing(tmp_path):
    run = RunDir.create(tmp_path, "dog")
    with run.lock():
        (run.path / ".tmp-x-12-0123abcd").write_text("the owner is writing")
        with pytest.raises(LockedError), run.lock():
            pass
        assert (run.path / ".tmp-x-12-0123abcd").exists()


def test_tokens_are_not_kept(tmp_path):
    run = RunDir.create(tmp_path, "dog")
    token = "hf_" + "aB3" * 8
    run.write_recipe(f"a: {token}", f"b: {token}")
    run.write_identity({"x": token})
    run.journal("started", note=token)
    assert token not in "".join(path.read_text() for path in run.path.iterdir())


def test_identity_comes_back(tmp_path):
    run = RunDir.create(tmp_path, "dog")
    assert run.identity() is None
    tree = {"train": {"lr": 1e-4, "seed": 0}, "data": [{"caption": "é", "n": None}]}
    run.write_identity(tree)
    assert run.identity() == tree
    for damaged in ("{", "[]", ""):
        run.identity_file.write_text(damaged)
        with pytest.raises(StorageError, match="damaged"):
            run.identity()


def test_differences_name_the_key_and_both_values():
    old = {"train": {"lr": 1e-4, "steps": 10}, "adapters": [{"name": "lora", "rank": 4}], "gone": True}
    new = {"train": {"lr": 2e-4, "steps": 10}, "adapters": [{"name": "lora", "rank": 8}, {"name": "x"}]}
    assert differences(flatten(old), flatten(new)) == [
        "adapters.0.rank: 4 -> 8",
        'adapters.1.name: (absent) -> "x"',
        "gone: true -> (absent)",
        "train.lr: 0.0001 -> 0.0002",
    ]


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
trees = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    st.recursive(leaves, lambda i: st.lists(i, max_size=2) | st.dictionaries(st.text("ab", min_size=1), i, max_size=2)),
    max_size=3,
)


@given(one=trees, other=trees)
def test_only_equal_trees_have_no_differences(one, other):
    through_a_file = json.loads(json.dumps(one))
    assert differences(flatten(one), flatten(through_a_file)) == []
    assert (differences(flatten(one), flatten(other)) == []) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


def test_runs_are_summed_up(tmp_path):
    now = time.time()
    for name, state, started in [
        ("a-1", "done", now - 500),
        ("b-1", "stopped", now - 50),
        ("c-1", "training", now - 5),
    ]:
        run = RunDir.open(tmp_path / name)
        status = of_this_process(name, state=state, step=30, total=100, started=started)
        write_status(run.status_file, status)
        LineWriter(run.metrics_file).append_json(
            metric_rows(20, {"loss": 2.0}) + metric_rows(30, {"loss": 1.5, "lr": 1.0})
        )
    found = runs(tmp_path)
    assert [(run.name, run.state, run.step, run.total, run.loss) for run in found] == [
        ("c-1", "training", 30, 100, 1.5),
        ("b-1", "stopped", 30, 100, 1.5),
        ("a-1", "done", 30, 100, 1.5),
    ]
    assert [run.age_s // 30 for run in found] == [0, 1, 16]
    assert found[0].path == tmp_path / "c-1"


def test_garbage_folders_do_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").write_text("")
    (tmp_path / "weird" / "status.json").mkdir(parents=True)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "status.json").write_text("{{{")
    (tmp_path / "bad" / "metrics.jsonl").write_bytes(b"\xff\n{\n")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "status.json").write_text(Status("odd", state="done").to_json())
    (tmp_path / "odd" / "metrics.jsonl").mkdir()
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "resolved.yaml").write_text("")
    (tmp_path / "queued").mkdir()
    (tmp_path / "queued" / "status.json").write_text(Status("queued").to_json())
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    found = {run.name: run.state for run in runs(tmp_path)}
    assert found == {"bad": "interrupted", "early": "interrupted", "queued": "queued"}
    assert runs(tmp_path / "nowhere") == []


def test_a_stopped_and_a_queued_run_are_not_finished(tmp_path):
    run = RunDir.create(tmp_path, "dog")
    assert not run.finished
    with Recorder(run) as recorder:
        assert not run.finished
        recorder.end("stopped")
    assert run.status().state == "done" or not run.finished
