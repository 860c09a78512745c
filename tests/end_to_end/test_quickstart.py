"""What a newcomer does first, and what follows: `quickstart`, then `eval` of what it left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toyboxes
from PIL import Image
from typer.testing import CliRunner

from tuner import toybox
from tuner.cli import app, call
from tuner.contact_sheet import MARGIN
from tuner.errors import DataError, UsageError
from tuner.evaluation import Asking, Report, evaluate

FEW = ["train.steps=3", "data.prior.generate=2", "data.prior.steps=2", "sample.every=null", "save.every=null"]
STILL = ["train.lr=1e-30", "adapters.0.text_encoder_lr=null"]
"""Moves no weight by as much as float32 can tell."""
LITTLE = Asking(count=2, per_prompt=1, steps=2)


def quickstart(place: Path, *options: str) -> tuple[Path, str]:
    """A short quickstart, in a directory that has a `photos` folder of something else; its run and what it said."""
    run_dir = place / "first"
    words = ["quickstart", *FEW, "--run-dir", str(run_dir), *options]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return run_dir, done.output


@pytest.fixture(scope="module")
def lesson(tmp_path_factory, own_cache):
    return quickstart(tmp_path_factory.mktemp("newcomer"))


@pytest.fixture(scope="module")
def lesson_on_sd35(tmp_path_factory, own_cache):
    toyboxes.require("sd35")
    return quickstart(tmp_path_factory.mktemp("newcomer"), "--backbone", "sd35")


@pytest.fixture(params=["lesson", "lesson_on_sd35"])
def taught(request):
    return request.getfixturevalue(request.param)


def test_it_ends_with_a_picture_and_the_command_for_the_real_model(taught):
    run_dir, said = taught
    with Image.open(run_dir / "before_after.png") as picture:
        assert picture.width > 6 * 128
    assert str(run_dir / "before_after.png") in said
    assert "tuner run dreambooth_lora" in said.splitlines()[-1]
    assert (run_dir / "adapter" / "pytorch_lora_weights.safetensors").is_file()


def test_the_command_for_the_real_model_is_one_that_is_read(taught):
    import shlex

    from tuner.recipe_file import load_recipe

    run_dir, said = taught
    tuner, run, recipe, *changes = shlex.split(said.splitlines()[-1])
    assert (tuner, run) == ("tuner", "run")
    real, ours = load_recipe(recipe, changes).backbone, load_recipe(run_dir / "resolved.yaml").backbone
    assert (real.key, ours.model) == (ours.key, "toybox")
    assert real.model != "toybox"


def test_the_bundled_subject_is_taught_whatever_lies_about(taught):
    run_dir, _ = taught
    assert f"path: {toybox.pictures()}" in (run_dir / "resolved.yaml").read_text(encoding="utf-8")


def test_a_lesson_on_sd35_is_measured_like_any(lesson_on_sd35):
    report = evaluate(lesson_on_sd35[0], asking=LITTLE)
    assert {row.group for row in report.rows} >= {"subject fidelity", "prompt fidelity", "prior drift"}
    assert report.unmeasured == ()


def test_the_example_draws_with_what_it_made(taught, tmp_path, monkeypatch):
    """In plain diffusers, whichever family the file is for."""
    import runpy

    run_dir, _ = taught
    example = Path(__file__).parents[2] / "examples" / "load_in_diffusers.py"
    file, picture = run_dir / "adapter" / "pytorch_lora_weights.safetensors", tmp_path / "picture.png"
    words = [str(example), str(file), "--base", "toybox", "--steps", "2", "--out", str(picture)]
    monkeypatch.setattr("sys.argv", words)
    runpy.run_path(str(example), run_name="__main__")
    with Image.open(picture) as drawn:
        assert drawn.size == (64, 64)


def test_there_is_no_quickstart_for_a_backbone_without_a_small_model(capsys):
    assert call(["quickstart", "--backbone", "sdxl"]) == 2
    assert "there is sd15, sd35" in capsys.readouterr().err


def test_the_picture_shows_before_and_after_from_the_same_noise(tmp_path, lesson):
    """With an untrained adapter (lr too small to move a weight) both halves are the same."""
    still = [*FEW, *STILL]
    done = CliRunner().invoke(app, ["quickstart", *still, "--run-dir", str(tmp_path / "still"), "--json"])
    assert done.exit_code == 0, done.output
    picture = json.loads(done.stdout)["picture"]
    with Image.open(picture) as sheet:
        across, width = 128 + MARGIN, 3 * (128 + MARGIN) - MARGIN
        for top in range(sheet.height - MARGIN - 128, 0, -156):  # from the last row up, past each row's sentence
            left = sheet.crop((MARGIN, top, MARGIN + width, top + 128))
            right = sheet.crop((MARGIN + 3 * across, top, MARGIN + 3 * across + width, top + 128))
            assert left.tobytes() == right.tobytes()
            assert len(left.getcolors(2**16) or ()) != 1


@pytest.fixture(scope="module")
def measured(lesson):
    run_dir, _ = lesson
    return run_dir, evaluate(run_dir, asking=LITTLE)


def test_a_report_is_written_and_read_back(measured):
    run_dir, report = measured
    place = run_dir / "evaluation"
    assert Report.from_json((place / "report.json").read_text(encoding="utf-8")) == report
    assert (place / "report.md").read_text(encoding="utf-8") == report.markdown()
    with Image.open(place / "sheet.png") as sheet:
        assert sheet.width > 8 * 64


def test_every_promised_measure_is_there(measured):
    _, report = measured
    groups = {row.group for row in report.rows}
    assert groups == {"subject fidelity", "prompt fidelity", "prior drift", "diversity", "overfitting"}
    assert {row.judge for row in report.rows} == {"CLIP-I", "DINO", "CLIP-T", "RMSE"}
    assert report.unmeasured == ()
    assert report.facts["drawn"]["subject"] == 2


def test_the_same_measure_twice_is_the_same(measured, tmp_path):
    run_dir, report = measured
    assert evaluate(run_dir, asking=LITTLE, out=tmp_path) == report


def test_an_adapter_that_learned_nothing_drifts_by_nothing(tmp_path, lesson):
    """At learning rate 0 in effect the pictures are the base's own, to the last bit."""
    import tuner

    recipe = tuner.load_recipe("dreambooth_lora", [*FEW, *STILL, "sample.prompts=[]"], rehearse=True)
    done = tuner.run(recipe, run_dir=tmp_path / "run")
    report = evaluate(done.run_dir, asking=LITTLE)
    assert [row.adapter.mean for row in report.rows if row.base is None] == [0] * 6
    assert all(row.adapter == row.base for row in report.rows if row.base is not None)


def test_a_style_has_no_subject_and_says_so(tmp_path, own_cache):
    import tuner

    few = ["train.steps=2", "sample.every=null", "sample.prompts=[]", "save.every=null"]
    done = tuner.run(tuner.load_recipe("lora", few, rehearse=True), run_dir=tmp_path / "style")
    report = evaluate(done.run_dir, asking=LITTLE)
    assert any("prior drift" in line for line in report.unmeasured)
    found = {row.group for row in report.rows}
    assert found == {"style fidelity", "prompt fidelity", "prior drift", "overfitting"}


def test_what_cannot_be_measured_is_refused_with_a_way_out(tmp_path, lesson):
    run_dir, _ = lesson
    with pytest.raises(UsageError, match="not a run directory"):
        evaluate(tmp_path)
    with pytest.raises(UsageError, match="has no checkpoints/77/adapter"):
        evaluate(run_dir, step=77)
    with pytest.raises(UsageError, match="no prompts"):
        evaluate(run_dir, prompts="nonsense")
    with pytest.raises(DataError, match="judge cannot be loaded"):
        evaluate(run_dir, asking=Asking(count=1, per_prompt=1, steps=1), clip=tmp_path / "absent")
    with pytest.raises(DataError, match="nowhere"):
        evaluate(run_dir, photos=tmp_path / "nowhere")
