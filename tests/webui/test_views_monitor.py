"""The Monitor screen's view: every state in words, what a page has to draw again, samples, and the log's end."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import time

import pytest
from view_parts import GONE_PID, PAYLOAD, draw, made_run, made_status, measure, settle

from tuner.best import Best
from tuner.control import request as ask
from tuner.lines import LineWriter
from tuner.status import STATES, Fault, write_status
from webui.views import log
from webui.views.matrix import href, last_sample, matrix
from webui.views.monitor import Readers, monitor
from webui.views.state import TITLES, head, status_of


def head_of(run, **status):
    write_status(run.status_file, made_status(run.path.name, **status))
    return head(run.path, status_of(run.path))


def applies(found) -> set[str]:
    return {button.command for button in found.buttons if button.applies}


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "dog")


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_its_words(run, state):
    found = head_of(run, state=state, phase=state)
    assert found.state == state
    assert found.title == TITLES[state]
    assert found.said.endswith(".")
    assert found.tone in ("live", "good", "bad", "idle")
    assert [button.command for button in found.buttons] == ["stop", "stop-now", "save", "sample", "resume"]
    assert all(button.applies != bool(button.why_not) for button in found.buttons)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"state": "caching", "phase": "caching", "phase_done": 12, "phase_total": 20}, "Preparing 12 of 20 pictures"),
        ({"state": "starting", "phase": "class pictures", "phase_done": 3, "phase_total": 9}, "class pictures: 3 of 9."),
        ({"state": "starting", "phase": "looking at data.images", "phase_done": 1, "phase_total": 4}, "the pictures: 1 of 4."),
        ({"phase": "validating", "phase_total": 1}, "Measuring the loss on 1 held-out picture."),
        ({"state": "sampling", "phase": "sampling", "phase_total": 2}, "Drawing 2 samples."),
        ({"state": "saving", "phase": "saving"}, "Writing a checkpoint"),
        ({"state": "stopped"}, "It was stopped at 20 of 40 steps."),
        ({"state": "done", "step": 40}, "Trained for 40 steps"),
    ],
)  # fmt: skip
def test_what_it_does_is_said_in_words(run, status, said):
    assert said in head_of(run, **status).said


def test_measuring_is_called_so_whatever_went_before(run):
    assert head_of(run, state="caching", phase="validating").title == "Measuring"


def test_a_living_run_can_be_asked_and_a_stopped_one_resumed(run):
    assert applies(head_of(run)) == {"stop", "stop-now", "save", "sample"}
    assert applies(head_of(run, state="caching", phase="caching")) == {"stop", "stop-now"}
    assert applies(head_of(run, state="stopped")) == {"resume"}
    assert applies(head_of(run, state="failed")) == {"resume"}
    assert applies(head_of(run, state="done")) == set()


def test_without_sample_prompts_there_is_nothing_to_sample(tmp_path):
    found = head_of(made_run(tmp_path / "plain", prompts=()))
    assert next(button.why_not for button in found.buttons if button.command == "sample")


def test_without_its_recipe_a_run_cannot_go_on(run):
    run.resolved_file.unlink()
    run.recipe_file.unlink()
    assert applies(head_of(run, state="stopped")) == set()


@pytest.mark.parametrize("saved", [(), (10,), (10, 30)], ids=str)
def test_a_run_whose_process_is_gone_says_where_it_would_go_on(run, saved):
    for step in saved:
        (run.checkpoints / str(step)).mkdir(parents=True)
        (run.checkpoints / str(step) / "manifest.json").write_text("{}")
    found = head_of(run, pid=GONE_PID)
    assert found.state == "interrupted"
    assert "process is gone" in found.said
    assert found.hint == (
        f"Resume goes on from step {saved[-1]}." if saved else "Nothing was saved yet, so Resume begins again."
    )
    assert applies(found) == {"resume"}


def test_a_failure_says_why_and_what_to_do(run):
    found = head_of(run, state="failed", error=Fault("data", "pictures/: no pictures", "put some there"))
    assert (found.said, found.hint, found.tone) == ("pictures/: no pictures", "put some there", "bad")


def test_progress_speed_and_time_are_human(run):
    found = head_of(
        run, step=10, total=40, it_s=0.5, memory={"process": 900.0, "device": 3300.0}, best=Best(10, 0.08123)
    )
    assert found.share == 0.25
    assert found.progress == "10 of 40 steps"
    assert found.left == "60 seconds left"
    assert found.pace == "2 seconds a step"
    assert found.memory == "3.5 GB on the GPU, 944 MB of main memory"
    assert found.best == "step 10, validation loss 0.08123"


def test_the_time_left_in_an_interlude_is_still_the_trainings(run):
    assert head_of(run, state="sampling", phase="sampling", eta_s=3.0, step=20, it_s=0.1).left == "3 minutes left"
    assert head_of(run, state="caching", phase="caching", eta_s=30.0).left == "30 seconds left of this part"


def test_what_was_asked_and_not_yet_taken_is_told(run):
    ask(run.path, "stop")
    ask(run.path, "save")
    ask(run.path, "save")
    (run.path / "control" / "strange").write_text(PAYLOAD)
    assert head_of(run).asked == ("It stops and saves after the step at hand.", "It saves after the step at hand.")
    assert head_of(run, state="caching").asked[0] == "It stops and saves after its first step."
    assert head_of(run, state="done").asked == ()


def test_a_run_that_waits_is_not_called_broken(tmp_path):
    (tmp_path / "new").mkdir()
    assert head(tmp_path / "new", None).state == "queued"
    assert head(tmp_path / "missing", None).state == "gone"


def test_a_damaged_status_is_called_unknown(run):
    run.status_file.write_text('{"state": "training", "best": {"step": Infinity, "validation_loss": 1}, "run": "x"}')
    assert head(run.path, status_of(run.path)).state == "unknown"


# What a page draws again


def test_only_what_changed_is_given_again(run):
    settle(run)
    first = monitor(run.path)
    assert first.changed
    assert not monitor(run.path, first.seen).changed
    measure(run, 30, loss=0.1)
    second = monitor(run.path, first.seen)
    assert second.curves is not None
    assert second.curves.panels[0].latest == "0.1"
    assert (second.matrix, second.log) == (None, None)
    LineWriter(run.log_file).append(["2026-11-21T17:01:00 step 30"])
    third = monitor(run.path, second.seen)
    assert third.log is not None
    assert third.log.lines[-1].text == "step 30"
    assert (third.curves, third.matrix) == (None, None)


def test_a_picture_that_came_since_the_last_look_is_fresh(run):
    settle(run)
    first = monitor(run.path)
    assert first.matrix is not None
    assert not any(cell.fresh for row in first.matrix.rows for cell in row.cells)
    draw(run, 20, ["a dog", "a cup"])
    second = monitor(run.path, first.seen)
    assert second.matrix is not None
    assert {cell.step for row in second.matrix.rows for cell in row.cells if cell.fresh} == {20}
    time.sleep(0.01)
    draw(run, 0, ["a dog", "a cup"])
    third = monitor(run.path, second.seen)
    assert third.matrix is not None
    assert {cell.step for row in third.matrix.rows for cell in row.cells if cell.fresh} == {0}


def test_a_list_that_came_within_the_tick_of_a_look_is_seen(run):
    """Two changes of a folder may share one time; what was read between them must not be remembered for ever."""
    place = run.samples / "20"
    place.mkdir()
    shutil.copy(run.samples / "10" / "0.png", place / "0.png")
    now = time.time_ns()
    os.utime(place, ns=(now, now))
    assert [row.step for row in matrix(run.path).rows] == [10, 0]
    shutil.copy(run.samples / "10" / "index.jsonl", place / "index.jsonl")
    os.utime(place, ns=(now, now))
    assert [row.step for row in matrix(run.path).rows] == [20, 10, 0]


def test_what_was_seen_can_be_kept_between_two_looks(run):
    settle(run)
    seen = monitor(run.path).seen
    assert not monitor(run.path, pickle.loads(pickle.dumps(copy.deepcopy(seen)))).changed


def test_what_was_seen_of_another_run_counts_for_nothing(run, tmp_path):
    other = made_run(tmp_path / "cat")
    view = monitor(other.path, monitor(run.path).seen)
    assert None not in (view.head, view.curves, view.matrix, view.log)


def test_readers_let_go_of_runs_that_nobody_watches(tmp_path):
    readers = Readers(most=2)
    runs = [made_run(tmp_path / f"r{i}", sampled=()).path for i in range(4)]
    for path in runs:
        assert monitor(path, None, readers).curves is not None
    assert len(readers._readers) == 2


# The samples


def test_samples_are_a_table_of_steps_and_prompts(run):
    table = matrix(run.path)
    assert table.prompts == ("a dog", "a cup")
    assert [row.step for row in table.rows] == [10, 0]
    assert [cell.seed for cell in table.rows[0].cells] == [5, 6]
    assert table.rows[0].cells[1].href == "/media/sample/dog/10/1"
    assert table.newest is not None
    assert table.newest.href == "/media/sample/dog/10/0"


def test_a_missing_picture_is_an_empty_cell(run):
    (run.samples / "10" / "0.png").unlink()
    first, second = matrix(run.path).rows[0].cells
    assert (first.href, first.prompt) == ("", "a dog")
    assert second.href


def test_a_link_in_a_pictures_place_is_no_picture(run):
    (run.samples / "10" / "0.png").unlink()
    (run.samples / "10" / "0.png").symlink_to("/etc/passwd")
    assert matrix(run.path).rows[0].cells[0].href == ""


def test_prompts_that_changed_have_columns_of_their_own(run):
    draw(run, 20, ["a cup", "a tree", "a cup"])
    table = matrix(run.path)
    assert table.prompts == ("a cup", "a tree", "a cup", "a dog")
    newest, middle, _ = table.rows
    assert [bool(cell.href) for cell in newest.cells] == [True, True, True, False]
    assert [bool(cell.href) for cell in middle.cells] == [True, False, False, True]
    assert middle.cells[0].href.endswith("/10/1")
    assert [cell.seed for cell in newest.cells] == [None, None, None, None]  # the recipe asks for others there


def test_a_step_whose_pictures_are_being_written_is_not_there_yet(run):
    (run.samples / "20").mkdir()
    shutil.copy(run.samples / "10" / "0.png", run.samples / "20" / "0.png")
    assert [row.step for row in matrix(run.path).rows] == [10, 0]


def test_a_damaged_list_is_told_of(run):
    (run.samples / "10" / "index.jsonl").write_text("no json\n")
    table = matrix(run.path)
    assert [row.step for row in table.rows] == [0]
    assert table.notes == ("step 10: its list of samples is damaged, so they are not shown",)


def test_a_list_names_no_file_but_its_own(run):
    rows = [
        {"index": 0, "prompt": "a dog", "file": "../../../secret.png"},
        {"index": 1, "prompt": "a cup", "file": "1.png"},
    ]
    (run.samples / "10" / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    newest = matrix(run.path).rows[0]
    assert sum(bool(cell.href) for cell in newest.cells) == 1


def test_only_so_many_rows_are_shown(tmp_path):
    run = made_run(tmp_path / "long", sampled=range(65), prompts=["a dog"])
    table = matrix(run.path)
    assert (len(table.rows), table.older, table.rows[0].step) == (60, 5, 64)


@pytest.mark.parametrize("name", ["a b", "é#?", 'q"<>', "..%2f"])
def test_names_in_addresses_are_encoded(name):
    found = href(name, 3, 4)
    assert found.startswith("/media/sample/")
    assert found.count("/") == 5
    assert not set(found) & set(' "<>#?é')


def test_the_newest_sample_is_the_first_prompts(run):
    cell = last_sample(run.path)
    assert cell is not None
    assert (cell.step, cell.index) == (10, 0)
    shutil.rmtree(run.samples)
    assert last_sample(run.path) is None


# The log


def test_the_end_of_the_log_is_shown(run):
    LineWriter(run.log_file).append([f"2026-11-21T17:02:00 line {i}" for i in range(300)])
    found = log.tail(run.log_file)
    assert len(found.lines) == log.MOST_LINES
    assert found.cut
    assert found.lines[-1] == log.LogLine("2026-11-21", "17:02:00", "line 299", "")


def test_warnings_and_failures_stand_out(run):
    run.log_file.write_text("2026-11-21T17:02:00 warning: x\n2026-11-21T17:02:00 failed: y\nforeign\n")
    assert [line.tone for line in log.tail(run.log_file).lines] == ["warning", "bad", ""]


@pytest.mark.parametrize("size", [10**4, 2 * 10**6])
def test_a_huge_line_is_cut(run, size):
    run.log_file.write_bytes(b"start\n" + b"\xe2\x82" * size + b"\nend\n")
    found = log.tail(run.log_file)
    assert found.lines[-1].text == "end"
    assert all(len(line.text) <= log.LONGEST for line in found.lines)
    run.log_file.write_bytes(b"y" * size)
    assert log.tail(run.log_file).lines[0].text.endswith("…")


def test_a_line_whose_start_is_not_read_is_left_out(run):
    LineWriter(run.log_file).append([f"2026-11-21T17:02:00 {i} " + "x" * 5000 for i in range(100)])
    found = log.tail(run.log_file)
    assert 40 < len(found.lines) < 60
    assert all(line.time for line in found.lines)


def test_no_token_is_shown(run):
    run.log_file.write_text("x" * 980 + "hf_" + "A1" * 20 + "\n")
    assert "A1A1" not in log.tail(run.log_file).text


def test_no_log_is_said(tmp_path):
    assert log.tail(tmp_path / "log.txt").note


# Speed and weight


def test_a_long_run_is_looked_at_quickly(tmp_path):
    run = made_run(tmp_path / "long", sampled=range(50), prompts=["a", "b", "c", "d"])
    settle(run)
    names = ["loss", "lr", "grad_norm", "it_s", "validation_loss"]
    rows = (
        json.dumps({"step": s, "name": n, "value": s * 0.001, "time": 1.0}) for s in range(30, 10_030) for n in names
    )
    run.metrics_file.write_text("\n".join(rows) + "\n")
    readers, began = Readers(), time.process_time()
    view = monitor(run.path, None, readers)
    first = time.process_time() - began
    measure(run, 20_000, loss=0.5, lr=0.1)
    LineWriter(run.log_file).append(["one more"])
    began = time.process_time()
    again = monitor(run.path, view.seen, readers)
    second = time.process_time() - began
    began = time.process_time()
    monitor(run.path, again.seen, readers)
    idle = time.process_time() - began
    assert again.curves is not None
    assert first < 1.0
    assert second < 0.1  # 0.05 on a quiet machine
    assert idle < 0.05


def test_the_views_need_neither_torch_nor_gradio():
    code = """
import sys
import webui.views.monitor, webui.views.results, webui.views.compare, webui.views.recent, webui.views.adapter_files
heavy = {'torch', 'gradio', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
