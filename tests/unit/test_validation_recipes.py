"""What a recipe may say of its validation, and what the plan says of it."""

from __future__ import annotations

import shutil

import pytest

from tuner import toybox
from tuner.commands.study import verdict
from tuner.data.scan import scan
from tuner.errors import DataError, RecipeError
from tuner.planning import plan
from tuner.recipe_file import read_text
from tuner.watch import Watcher

RECIPE = """
backbone: {{name: sd15, model: toybox}}
adapters: lora
task: finetune
data: {{resolution: 64, bucket_step: 16, images: {{path: {folder}, caption: a dog}}}}
train: {{steps: 800}}
validation: {validation}
save: {{every: 200}}
"""
"""Without doubled braces a recipe file."""


@pytest.fixture
def folders(tmp_path):
    """Four pictures to learn from; `held` has the fifth and a copy of the fourth."""
    files = sorted(toybox.pictures().glob("*.png"))
    for name, members in (("images", files[:4]), ("held", files[3:])):
        (tmp_path / name).mkdir()
        for file in members:
            shutil.copy(file, tmp_path / name / file.name)
    return tmp_path


def read(folders, validation: str, *, rehearse: bool = False, **changes: str):
    text = RECIPE.format(folder=folders / "images", validation=validation)
    for old, new in changes.items():
        text = text.replace(old, new)
    return read_text(text, "recipe.yaml", rehearse=rehearse).recipe


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ("{every: 200}", "which pictures"),
        ("{images: {path: held, caption: a dog}}", "every"),
        ("{every: 0, hold_out: 0.1}", "every"),
        ("{every: 200, hold_out: 0}", "hold_out"),
        ("{every: 200, hold_out: 1}", "hold_out"),
        ("{every: 200, hold_out: 0.1, images: {path: held}}", "keep one"),
        ("{every: 200, images: []}", "images"),
        ("{every: 200, images: {path: held, repeats: 2}}", "repeats: has no effect on held-out pictures"),
        ("{every: 200, images: [{path: held, weight: 2.0}]}", "weight: has no effect on held-out pictures"),
        ("{every: 200, images: {path: held, split: x}}", "without dataset"),
        ("{every: 200, holdout: 0.1}", "did you mean"),
    ],
)
def test_refused(validation, message, folders):
    with pytest.raises(RecipeError) as error:
        read(folders, validation)
    assert message in str(error.value)


def test_a_caption_that_no_one_reads_is_refused(folders):
    """The model trains without captions, so it is measured without them."""
    silent = {"caption: a dog}}": "caption_column: x}, caption_dropout: 1}"}
    with pytest.raises(RecipeError, match=r"validation\.images\.caption: has no effect"):
        read(folders, "{every: 200, images: {path: held, caption: a cat}}", **silent)


def test_intervals_in_epochs_and_lists_are_read(folders):
    made = read(folders, "{every: {epochs: 2}, images: [{path: held, caption: a dog}, {path: more, caption: a cat}]}")
    assert made.validation.every.epochs == 2
    assert [source.caption for source in made.validation.images] == ["a dog", "a cat"]


def test_check_and_plan_count_the_pictures_and_the_time(folders):
    made = read(folders, f"{{every: 300, images: {{path: {folders / 'held'}, caption: a dog}}}}")
    found = scan(made, decode=True, watcher=Watcher())
    assert "validation: 1 picture is held out" in verdict(made, found)
    assert [r.name.rpartition("/")[2] for r in found.refused] == ["3.png"]
    planned = plan(made, found, steps_a_second=2.0)
    cost = planned.validation
    assert (cost.pictures, cost.measurements, cost.predictions) == (1, 4, 32)  # 0, 300, 600, 800
    assert cost.steps == pytest.approx(32 / 3)
    assert planned.validation_seconds == pytest.approx(32 / 6)
    assert planned.exposures[0].pictures == 4
    assert planned.caches[0].encoded_before == 5
    assert next(c for c in planned.caches if c.choice == "off").encoded_before == 1
    page = str(planned)
    assert "validation: 1 picture never learned from, measured 4 times at 8 levels" in page
    assert "validation: about 5 s, for 32 predictions (estimate)" in page
    assert planned.to_json()["validation"]["predictions"] == 32
    without = plan(made.model_copy(update={"validation": None}))
    assert without.validation is None
    assert "validation" not in str(without)


def test_a_share_is_taken_from_the_pictures(folders):
    made = read(folders, "{every: 200, hold_out: 0.25}")
    planned = plan(made)
    assert (planned.validation.pictures, planned.exposures[0].pictures) == (1, 3)
    assert planned.caches[0].encoded_before == 4
    assert any("1 of 4 pictures of data.images held out" in note for note in planned.notes)
    with pytest.raises(DataError, match="leaves none to learn from"):
        plan(read(folders, "{every: 200, hold_out: 0.9}"))


@pytest.mark.parametrize(
    ("every", "save", "meets"),
    [("200", "200", True), ("400", "200", True), ("300", "200", True), ("500", "200", False), ("800", "200", False)],
)
def test_intervals_that_never_meet_are_told(every, save, meets, folders):
    made = read(folders, f"{{every: {every}, hold_out: 0.25}}", **{"every: 200}}": f"every: {save}}}"})
    assert bool(plan(made).validation.advice) == (not meets)


def test_a_missing_folder_is_named_and_a_rehearsal_does_without(folders):
    made = read(folders, "{every: 200, images: {path: nowhere, caption: a dog}}")
    with pytest.raises(DataError, match=r"validation\.images\.path"):
        plan(made)
    made = read(folders, "{every: 200, images: {path: nowhere, caption: a dog}}", rehearse=True)
    assert made.validation.images is None
    assert (made.validation.hold_out, made.validation.every) == (0.2, 125)
    assert plan(made).validation.pictures == 1
