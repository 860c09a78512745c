"""The Check card says what `tuner plan` says, at once, and never more than it knows."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from pathlib import Path

import pytest
from form_parts import RECIPES, draw_dataset, draw_pictures, text_of

from tuner.data.scan import scan
from tuner.planning import plan
from tuner.recipe_file import read_recipe
from tuner.resolved import scrubbed_yaml
from tuner.status import Status
from tuner.watch import Watcher
from webui.forms.basics import Basics, Pictures, apply
from webui.forms.check import check
from webui.forms.document import set_value
from webui.workspace import Workspace, fresh_id


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def text(tmp_path):
    return apply(Basics("dreambooth_lora", True, "", "ohwx", "owl", "normal", "Owl"), draw_dataset(tmp_path / "own"))


def test_the_card_is_the_plan(text, workspace):
    view = check(text, workspace)
    recipe = read_recipe(text, "recipe")
    planned = plan(recipe, scan(recipe, decode=False, watcher=Watcher()), run_dir=workspace.runs)
    assert view.ok
    assert (view.steps, view.epochs) == (planned.length.steps, planned.length.epochs) == (250, 250.0)
    assert view.memory.bytes == planned.memory["here"].peak.total
    assert view.memory.fits
    assert {disk.name: disk.bytes for disk in view.disk} == {place.name: place.total for place in planned.places}
    assert [seen.pictures for seen in view.seen] == [4, 24]
    assert "each is seen 250 times" in view.seen[0].text
    assert sum(bucket.pictures for bucket in view.buckets) == 4
    assert view.time.seconds is None
    assert "not known" in view.time.text
    page = str(planned)
    for row in view.rows:
        if row.name not in ("Disk", "Sizes"):
            assert all(line in page for line in row.lines)


def test_files_that_cannot_be_used_are_named(text, workspace, tmp_path):
    (tmp_path / "own" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "own" / "old.bmp.exe").write_bytes(b"x")
    view = check(text, workspace)
    assert [(Path(name).name, reason) for name, reason in view.refused] == [("broken.png", "text, not a picture")]
    assert any("old.bmp.exe" in note for note in view.notes)
    assert view.problems == ()


def test_pictures_of_a_dataset_go_by_their_own_names(workspace, tmp_path):
    from tuner.dataset import Dataset, intake_paths

    files = sorted(draw_pictures(tmp_path / "new").glob("*.png"))
    dataset = Dataset.new(workspace.datasets / (name := fresh_id()), "mine")
    assert len(list(intake_paths(dataset, files))) == 4
    given = Pictures.of(workspace, name)
    assert given == Pictures(dataset.images, 4, 0)
    view = check(apply(Basics("lora", subject=""), given), workspace)
    assert view.ok
    small = next(note for note in view.notes if "enlarged" in note)
    assert "1.png" in small
    assert str(dataset.images) not in small


@pytest.mark.parametrize("kept", [True, False], ids=["like this one", "another"])
def test_time_comes_from_a_run_like_this_one(kept, text, workspace):
    run = workspace.runs / "owl-1"
    run.mkdir()
    recipe = read_recipe(text if kept else text.replace("batch: 4", "batch: 2"), "recipe")
    (run / "recipe.yaml").write_text(text, "utf-8")
    (run / "resolved.yaml").write_text(scrubbed_yaml(recipe), "utf-8")
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n, "name": "it_s", "value": 5.0}) + "\n" for n in (10, 20)), "utf-8"
    )
    status = Status("owl-1", "done", "done", 20, 20, host=platform.node())
    view = check(text, workspace)
    assert view.time.seconds is None
    (run / "status.json").write_text(status.to_json(), "utf-8")
    view = check(text, workspace)
    if kept:
        assert view.time.run == "owl-1"
        assert view.time.seconds == pytest.approx(50)
        assert "5 steps a second of the run owl-1" in view.time.text
    else:
        assert view.time.seconds is None


def test_a_wrong_recipe_is_its_problems(workspace):
    view = check(text_of("lora").replace("rank: 16", "rnk: 16"), workspace)
    assert not view.ok
    assert [problem.path for problem in view.problems] == ["adapters.0.rnk"]
    assert view.rows == ()


@pytest.mark.parametrize("name", RECIPES)
def test_a_missing_folder_is_a_problem_with_its_line(name, workspace):
    text = text_of(name)
    view = check(text, workspace)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.strip().startswith("path:"))
    assert [problem.line for problem in view.problems] == [line]
    assert "there is no" in view.problems[0].message


def test_a_folder_without_captions_is_told(workspace, tmp_path):
    text = text_of("lora").replace("pictures/ ", f"{draw_pictures(tmp_path / 'bare')} ")
    text = text.replace("    caption: a picture in sks style", "    #")
    (problem,) = check(text, workspace).problems
    assert "without a caption" in problem.message
    assert problem.hint
    assert problem.line == next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("  images:"))


def test_relative_folders_begin_in_the_workspace(workspace):
    draw_pictures(workspace.root / "photos")
    here = os.getcwd()
    view = check(text_of("dreambooth_lora"), workspace)
    assert view.ok
    assert os.getcwd() == here
    assert any(str(workspace.root / "photos") in note for note in view.notes)


def test_what_does_not_fit_is_a_warning(workspace, tmp_path):
    text = apply(Basics("full_sd35_medium"), draw_dataset(tmp_path / "own"))
    text = text.replace("batch: 1", "batch: 60000")
    view = check(text, workspace)
    assert view.problems == ()
    assert not view.ok
    assert view.memory.fits is False
    assert any("memory" in line for line in view.warnings)


def test_bases_say_what_to_do_first(workspace, tmp_path):
    given = draw_dataset(tmp_path / "own")
    gated = " ".join(check(apply(Basics("lora_sd35_medium"), given), workspace).base)
    assert "accept its licence once at https://huggingface.co/stabilityai/stable-diffusion-3.5-medium" in gated
    assert "gated" not in " ".join(check(apply(Basics("lora"), given), workspace).base)
    assert "nothing is downloaded" in check(apply(Basics("lora", True), given), workspace).base[0]
    other = apply(Basics("lora"), given).replace("stable-diffusion-v1-5/stable-diffusion-v1-5", "someone/something")
    assert "someone/something is downloaded" in check(other, workspace).base[0]


def test_the_network_is_never_asked(workspace, tmp_path, monkeypatch):
    def refuse(*words, **more):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    given = draw_dataset(tmp_path / "own")
    for name in ("lora", "lora_sd35_medium"):
        assert check(apply(Basics(name), given), workspace).ok
    hub = text_of("lora").replace("path: pictures/ ", "dataset: someone/pictures ")
    view = check(hub, workspace)
    assert view.problems[0].path == "data.images.0.dataset"
    assert hub.splitlines()[view.problems[0].line - 1].strip().startswith("dataset:")
    assert not view.ok


def test_twenty_pictures_take_about_a_second(workspace, tmp_path):
    folder = draw_pictures(tmp_path / "twenty", 20, 256)
    text = apply(Basics("dreambooth_lora", subject="owl"), Pictures(folder, 20, 0))
    began = time.process_time()
    assert check(text, workspace).ok
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "path",
    ["/dev/null", "/proc/self/mem", "\u0000", "x" * 5000, "/root/\ud800", "~nobody-here/x", "", "//", "a\nb"],
    ids=ascii,
)
def test_odd_paths_are_problems(path, workspace):
    from tuner.yaml_text import parse
    from tuner.yaml_write import to_yaml

    tree = parse(text_of("lora")).value
    tree["data"]["images"]["path"] = path
    if path == "//":
        tree["data"]["images"]["path"] = str(workspace.root)
    view = check(to_yaml(tree), workspace)
    assert view.problems
    assert all(problem.message for problem in view.problems)


@pytest.mark.parametrize(
    "model",
    ["~nobody-here/x", "x" * 5000, "/etc/hosts/x", '"', "<b>/x", "https://x/y", "./x", "a b/c", "x.safetensors"],
    ids=ascii,
)
def test_a_model_that_is_nowhere_is_a_problem(model, workspace, tmp_path):
    text = set_value(apply(Basics("lora"), draw_dataset(tmp_path / "own")), "backbone.model", model)
    (problem,) = check(text, workspace).problems
    assert problem.path == "backbone.model"
    assert "model:" in text.splitlines()[problem.line - 1]
    begun = set_value(text, "backbone.model", "toybox")
    (problem,) = check(set_value(begun, "adapters.0.init_from", model), workspace).problems
    assert problem.path == "adapters.0.init_from"


def test_a_broken_model_folder_is_a_problem(workspace, tmp_path):
    folder = workspace.root / "model" / "unet"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{", "utf-8")
    text = set_value(apply(Basics("lora"), draw_dataset(tmp_path / "own")), "backbone.model", "model")
    (problem,) = check(text, workspace).problems
    assert "not readable as JSON" in problem.message
