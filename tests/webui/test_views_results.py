"""Results, Compare and Start: what was saved, the best and by what, runs side by side, the latest runs."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from view_parts import (
    GONE_PID,
    draw,
    judged,
    made_run,
    made_status,
    measure,
    put_lora,
    put_save,
    validate,
    write_header,
)

from tuner.status import write_status
from webui.views import adapter_files
from webui.views.compare import ABSENT, compare
from webui.views.recent import recent
from webui.views.results import results


@pytest.fixture
def run(tmp_path):
    made = made_run(tmp_path / "dog", state="done", step=40)
    for step in (10, 20, 40):
        put_save(made, step)
    put_lora(made.adapter)
    return made


def test_saves_are_listed_newest_first_the_final_files_once(run):
    found = results(run.path)
    assert [save.step for save in found.saves] == [40, 20, 10]
    assert [save.final for save in found.saves] == [True, False, False]
    assert found.saves[0].folder.path == run.adapter
    assert all(save.resumable for save in found.saves)
    assert found.best is None
    assert "no validation" in found.said


def test_the_best_by_validation_is_the_lowest_that_was_saved(run):
    validate(run, s0=0.01, s10=0.5, s20=0.3, s30=0.1, s40=float("nan"))
    found = results(run.path)
    assert found.best is not None
    assert (found.best.step, found.best.by) == (20, "validation")
    assert "the lowest of 2 saves" in found.said
    assert [save.validation for save in found.saves] == ["not finite", "0.3", "0.5"]
    assert found.save(None) is found.saves[1]
    assert "best by validation loss" in found.saves[1].marks


def test_the_best_by_the_yardstick_needs_two_that_were_measured_alike(run):
    judged(run, 10, 0.6)
    assert results(run.path).best is None
    judged(run, None, 0.4)
    found = results(run.path)
    assert found.best is not None
    assert (found.best.step, found.best.by) == (10, "yardstick")
    assert "subject fidelity (subject in contexts, DINO), 0.600, is the highest of 2 measured" in found.best.words
    assert {save.step for save in found.saves if save.figures} == {10, 40}
    judged(run, 10, 0.6, prompts="others")
    assert results(run.path).best is None


def test_where_validation_and_yardstick_differ_both_are_said(run):
    validate(run, s10=0.5, s20=0.3)
    judged(run, 10, 0.6)
    judged(run, 20, 0.4)
    found = results(run.path)
    assert found.best is not None
    assert found.also is not None
    assert (found.best.step, found.also.step) == (20, 10)
    assert found.saves[2].marks == ("best by the yardstick",)


def test_each_tool_is_told_its_file(run):
    folder = results(run.path).saves[0].folder
    files = {choice.tool: choice.file for choice in folder.choices}
    own = dict.fromkeys(("AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI"), "dog.safetensors")
    assert files == {"diffusers": "pytorch_lora_weights.safetensors", **own}
    assert next(c.words for c in folder.choices if c.tool == "ComfyUI").endswith("in models/loras")
    assert {name for name, _ in folder.others} == {"README.md", "dog.json"}
    assert dict(folder.files[0].metadata)["tuner_backbone"] == "sd15"


def test_every_word_on_which_the_choice_rests_is_one_of_tuners():
    """Where what tuner says of its files changes, this tells."""
    from tuner.formats import hypernetwork_kind, word_kind
    from tuner.formats.original import ORIGINALS

    direct = adapter_files._DIRECT
    for family in ("sd15", "sd35"):
        assert all(direct.match(words) for words in word_kind.loads_in(family, "toy").values())
        told = hypernetwork_kind.loads_in(family)
        assert [tool for tool, words in told.items() if direct.match(words)] == ["diffusers"]
        assert ORIGINALS[family].folders


def test_a_whole_model_is_a_folder_for_diffusers_and_a_file_for_others(run):
    shutil.rmtree(run.adapter)
    (run.adapter / "model" / "unet").mkdir(parents=True)
    (run.adapter / "model" / "model_index.json").write_text("{}")
    (run.adapter / "model" / "unet" / "weights.safetensors").write_bytes(b"0" * 1000)
    metadata = {"tuner_kind": "full", "tuner_trained": "unet"}
    write_header(run.adapter / "dog.safetensors", {"model.diffusion_model.input_blocks.0.0.weight": [4, 4]}, metadata)
    folder = results(run.path).saves[0].folder
    files = {choice.tool: choice.file for choice in folder.choices}
    assert files.pop("diffusers") == "model/"
    assert set(files.values()) == {"dog.safetensors"}
    assert folder.others[0] == ("model/", "1.0 KB")


def test_the_code_is_the_cards(run):
    (code,) = adapter_files.code(run.adapter)
    assert (code.title, code.text) == ("In diffusers", "load('x')\n")
    (run.adapter / "README.md").unlink()
    (code,) = adapter_files.code(run.adapter)
    assert "tuner.load_adapter(pipe, 'dog.safetensors')" in code.text


def test_a_broken_file_says_what_is_wrong_without_its_place(run):
    (run.adapter / "dog.safetensors").write_bytes(b"no")
    file = next(file for file in results(run.path).saves[0].folder.files if file.name == "dog.safetensors")
    assert "cut off" in file.problem
    assert str(run.path) not in file.problem
    assert file.tools == ()


@pytest.mark.parametrize(
    "damage",
    ["[]", "{", '{"schema": 9}', '{"schema": 1, "values": [{"step": Infinity}]}', '{"schema": 1, "values": 3}'],
)
def test_damaged_records_are_told_of(run, damage):
    run.validation_file.write_text(damage)
    (run.path / "evaluation").mkdir()
    (run.path / "evaluation" / "report.json").write_text(damage)
    found = results(run.path)
    assert found.best is None
    assert len(found.notes) == 2
    assert len(found.saves) == 3


def test_nothing_saved_is_said(tmp_path):
    living, over = made_run(tmp_path / "a"), made_run(tmp_path / "b", state="stopped")
    assert "yet" in results(living.path).said
    assert results(over.path).said == "Nothing was saved."
    assert results(tmp_path / "none").saves == ()


# Compare


def test_only_what_differs_between_recipes_is_shown(tmp_path):
    runs = [
        made_run(tmp_path / "a", rank=4),
        made_run(tmp_path / "b", rank=8),
        made_run(tmp_path / "c", rank=8, prompts=["a cup"]),
    ]
    found = compare([run.path for run in runs])
    assert {d.key: d.values for d in found.differences} == {
        "adapters.0.rank": ("4", "8", "8"),
        "sample.prompts.0": ("a dog", "a dog", "a cup"),
        "sample.prompts.1": ("a cup", "a cup", ABSENT),
    }
    assert [panel.key for panel in found.panels] == ["loss", "lr"]
    assert [line.name for line in found.panels[0].lines] == ["a", "b", "c"]


def test_samples_stand_side_by_side_at_common_prompts_and_steps(tmp_path):
    one = made_run(tmp_path / "a", prompts=["a dog", "a cup"], sampled=[0, 10, 20])
    two = made_run(tmp_path / "b", prompts=["a cup", "a tree"], sampled=[0, 20, 30])
    found = compare([one.path, two.path]).samples
    assert [(pair.prompt, pair.step) for pair in found] == [("a cup", 20), ("a cup", 0)]
    assert [cell.href for cell in found[0].cells if cell] == ["/media/sample/a/20/1", "/media/sample/b/20/0"]


def test_runs_without_a_common_step_show_their_last(tmp_path):
    one, two = made_run(tmp_path / "a", sampled=[0, 10]), made_run(tmp_path / "b", sampled=[5])
    found = compare([one.path, two.path])
    assert [cell.step for cell in found.samples[0].cells if cell] == [10, 5]
    assert found.samples[0].step is None
    assert found.notes == ("the runs have no step with samples in common, so each shows its last",)


def test_what_cannot_be_compared_is_said(tmp_path):
    runs = [made_run(tmp_path / f"r{i}").path for i in range(8)]
    (runs[0] / "resolved.yaml").write_bytes(b"\0")
    found = compare(runs)
    assert len(found.runs) == 6
    assert found.notes[:2] == ("2 more runs are left out", "r0: its recipe cannot be read")
    assert found.differences == ()
    assert compare([]).runs == ()
    assert len(compare([runs[1], runs[1]]).runs) == 1


# Start


def test_the_latest_runs_come_first(tmp_path):
    for n, name in enumerate(["old", "new", "gone"]):
        run = made_run(tmp_path / "runs" / name)
        os.utime(run.resolved_file, (1e9 + n, 1e9 + n))
    write_status(run.status_file, made_status("gone", pid=GONE_PID))
    (tmp_path / "runs" / "no run").mkdir()
    (tmp_path / "runs" / "file").write_text("x")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "runs" / "old")
    found = recent(tmp_path / "runs")
    assert [run.name for run in found] == ["gone", "new", "old"]
    assert [run.word for run in found] == ["Interrupted", "Training", "Training"]
    assert (found[1].progress, found[1].about) == ("20 of 40 steps", "lora on sd15")
    assert found[1].sample == "/media/sample/new/10/0"
    assert found[1].age == "just now"
    assert len(recent(tmp_path / "runs", limit=2)) == 2
    assert recent(tmp_path / "nowhere") == []


def test_a_run_drawn_anew_has_another_version_of_its_sample(tmp_path):
    run = made_run(tmp_path / "runs" / "dog")
    before = recent(tmp_path / "runs")[0].version
    time.sleep(0.01)
    draw(run, 10, ["a dog", "a cup"])
    assert recent(tmp_path / "runs")[0].version != before


def test_comparing_shows_what_came_since(tmp_path):
    run = made_run(tmp_path / "a")
    compare([run.path])
    measure(run, 30, loss=0.125)
    assert compare([run.path]).panels[0].lines[0].points[-1][0] == 30
