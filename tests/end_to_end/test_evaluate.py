"""`tuner eval` on a run: what is refused before anything is drawn, what is drawn with what, and what the command says."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import tuner
from tuner.cli import app, call
from tuner.errors import DataError, UsageError
from tuner.evaluation import Asking, Report, evaluate
from tuner.evaluation.case import of_run, questions
from tuner.evaluation.evaluate import draw
from tuner.objectives import Objective
from tuner.recipe_file import load_recipe
from tuner.watch import Watcher

FEW = ["train.steps=2", "data.prior.generate=2", "data.prior.steps=2", "sample.every=null", "sample.prompts=[]"]
LITTLE = Asking(count=2, per_prompt=1, steps=2)
LEAST = ["--count", "2", "--per-prompt", "1", "--steps", "2"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, own_cache):
    """A rehearsed run with a checkpoint's adapter at step 1."""
    recipe = tuner.load_recipe("dreambooth_lora", [*FEW, "save.every=1"], rehearse=True)
    return tuner.run(recipe, run_dir=tmp_path_factory.mktemp("evaluated") / "run").run_dir


@pytest.fixture(scope="module")
def style(tmp_path_factory, own_cache):
    """A run that taught no subject, with prompts of its own."""
    changes = ["train.steps=1", "sample.every=null", 'sample.prompts=["a house in sks style"]', "save.every=null"]
    recipe = tuner.load_recipe("lora", changes, rehearse=True)
    return tuner.run(recipe, run_dir=tmp_path_factory.mktemp("styled") / "run").run_dir


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> str:
    """Two prompts instead of dozens."""
    file = tmp_path_factory.mktemp("prompts") / "mine.txt"
    file.write_text("{} on a blue background\na house\n", encoding="utf-8")
    return str(file)


@pytest.fixture
def drawn_nothing(monkeypatch):
    """Loading the base is already too late."""

    def refuse(*_: object) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr("tuner.drawing.load", refuse)


@pytest.mark.parametrize(
    ("asked", "fault", "said"),
    [
        ({"clip": "/nowhere"}, DataError, "--clip /nowhere"),
        ({"dino": "/nowhere"}, DataError, "--dino /nowhere"),
        ({"size": 63}, UsageError, "not a multiple of"),
        ({"device": "abacus"}, UsageError, "unknown device 'abacus'"),
        ({"step": 7}, UsageError, "checkpoints/7/adapter"),
        ({"prompts": "/nowhere"}, UsageError, "no prompts"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_faults_are_found_before_anything_is_drawn(run_dir, drawn_nothing, tmp_path, asked, fault, said):
    with pytest.raises(fault, match=said):
        evaluate(run_dir, out=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_step_that_is_not_there_names_those_that_are(run_dir):
    with pytest.raises(UsageError) as caught:
        of_run(run_dir, step=7)
    assert "1, 2" in caught.value.hint


def test_the_base_is_the_runs_own_until_the_user_names_another(run_dir):
    """Only a named base may have other weights than the adapter learned on."""
    own, named = of_run(run_dir).drawing, of_run(run_dir, base="toybox").drawing
    assert (own.chosen, named.chosen) == (False, True)
    assert own.backbone == load_recipe(run_dir / "resolved.yaml").backbone


def test_an_adapter_of_other_weights_is_refused(run_dir, monkeypatch):
    from tuner.backbones.sd15_model import SD15Model

    monkeypatch.setattr(SD15Model, "identity", lambda *_: "another")
    with pytest.raises(DataError, match="trained on other weights"):
        draw(of_run(run_dir), LITTLE, Watcher())


def test_the_adapter_is_sampled_as_it_was_trained_and_the_base_as_it_was(run_dir, mine):
    """A run for v predicts v where its base predicts noise; read as noise its pictures would be another model's."""
    case = of_run(run_dir, prompts=mine)
    aimed = replace(case, objective=Objective.read({"name": "ddpm", "prediction": "v"}))
    usual, other = draw(case, LITTLE, Watcher()), draw(aimed, LITTLE, Watcher())
    for name in usual.base:
        assert pixels(usual.base[name]) == pixels(other.base[name])
        assert pixels(usual.adapter[name]) != pixels(other.adapter[name])


def pixels(pictures) -> list[bytes]:
    return [np.asarray(picture).tobytes() for picture in pictures]


def test_the_model_is_gone_before_a_judge_comes(run_dir, mine, monkeypatch, tmp_path):
    """On a GPU they need not fit side by side."""
    from tuner import drawing
    from tuner.evaluation import judges

    loaded, alive = [], []
    load, clip = drawing.load, judges.clip

    def seen(*given):
        model = load(*given)
        loaded.append(weakref.ref(model.denoiser))
        return model

    def looked(*given):
        alive.extend(reference() is not None for reference in loaded)
        return clip(*given)

    monkeypatch.setattr(drawing, "load", seen)
    monkeypatch.setattr(judges, "clip", looked)
    gc.disable()
    try:
        evaluate(run_dir, asking=LITTLE, out=tmp_path, prompts=mine)
    finally:
        gc.enable()
    assert alive == [False]


def test_both_halves_are_asked_the_same(run_dir):
    """Seeds of a question follow each other, and no two questions share one."""
    asked = questions(of_run(run_dir), LITTLE)
    seeds = [shot.seed for question in asked.values() for shot in question.shots]
    assert len(set(seeds)) == len(seeds)
    later = questions(of_run(run_dir), replace(LITTLE, seed=5))
    assert [shot.seed for question in later.values() for shot in question.shots] == [seed + 5 for seed in seeds]


def test_judges_are_told_the_class_where_the_model_is_told_the_subject(run_dir):
    asked = questions(of_run(run_dir), LITTLE)["contexts"]
    assert all("sks" in shot.prompt for shot in asked.shots)
    assert not any("sks" in said for said in asked.said)
    assert all("mushroom" in said for said in asked.said)


def test_without_a_class_what_is_not_measured_is_said(tmp_path):
    alone = ["train.steps=1", "data.prior=null", 'task={"name": "dreambooth"}', "sample.every=null", "save.every=null"]
    recipe = tuner.load_recipe("dreambooth_lora", alone, rehearse=True)
    assert recipe.sources.keys() == {"instance"}
    done = tuner.run(recipe, run_dir=tmp_path / "run")
    case = of_run(done.run_dir)
    assert any("--class" in line for line in case.missing)
    assert any("'sks mushroom' stands in its own place" in line for line in case.missing)
    assert "class" not in questions(case, LITTLE)
    assert of_run(done.run_dir, plain="a photo of a mushroom").missing == ()


def test_a_style_is_asked_what_the_run_asks(style, mine, tmp_path):
    report = evaluate(style, asking=LITTLE, out=tmp_path, prompts=mine)
    assert report.row("prompt fidelity/the run's own prompts/CLIP-T").adapter.n == 1
    for judge in ("CLIP-I", "DINO"):
        row = report.row(f"style fidelity/captions of the pictures/{judge}")
        assert (row.base.n, row.adapter.n, row.reference.n) == (LITTLE.count, LITTLE.count, 16)
        assert report.row(f"overfitting/nearest training picture/{judge}").adapter.mean > row.adapter.mean
    assert any("own prompts" in line for line in report.unmeasured)


def test_nothing_to_draw_is_refused(style, tmp_path, drawn_nothing):
    contexts = tmp_path / "contexts.txt"
    contexts.write_text("{} on a beach\n", encoding="utf-8")
    case = replace(of_run(style, prompts=str(contexts)), sampled=(), captions=())
    with pytest.raises(UsageError, match="nothing can be measured"):
        draw(case, LITTLE, Watcher())


def test_the_command_shows_a_table_and_where_the_pictures_are(run_dir, mine):
    words = ["eval", str(run_dir), *LEAST, "--prompts", mine, "--step", "1"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "subject fidelity: subject alone" in done.output
    place = run_dir / "evaluation" / "1"
    assert str(place / "sheet.png") in done.output
    assert {path.name for path in place.iterdir()} == {"report.json", "report.md", "sheet.png"}


def test_the_commands_json_is_the_report(run_dir, mine, tmp_path):
    words = ["eval", str(run_dir), *LEAST, "--prompts", mine, "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    kept = Report.from_json((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout)["rows"] == json.loads(kept.to_json())["rows"]


def test_a_fault_is_a_message_and_a_code(tmp_path, capsys):
    assert call(["eval", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "not a run directory" in said.out + said.err
    assert "Traceback" not in said.out + said.err


def test_it_is_a_function_of_the_package(run_dir):
    assert callable(tuner.evaluate)
    assert tuner.evaluate is evaluate
