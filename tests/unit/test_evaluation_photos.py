"""Which photos and captions a run is measured against."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tuner import toybox
from tuner.data import images
from tuner.errors import DataError, UsageError
from tuner.evaluation.photos import learned_from
from tuner.recipe_file import load_recipe


def dreambooth(*changes: str):
    return load_recipe("dreambooth_lora", list(changes), rehearse=True)


def as_change(key: str, value: object) -> str:
    return f"{key}={json.dumps(value)}"


@pytest.fixture
def two(tmp_path):
    """A recipe of two subjects, each with its class."""
    folders = [tmp_path / name for name in ("one", "two")]
    for shade, folder in zip((10, 200), folders, strict=True):
        folder.mkdir()
        Image.new("RGB", (128, 128), (shade, shade, shade)).save(folder / "0.png")
    instances = [
        {"path": str(folder), "caption": f"a photo of {word}"}
        for folder, word in zip(folders, ("sks star", "qv fish"), strict=True)
    ]
    priors = [{"caption": f"a photo of a {kind}", "generate": 2} for kind in ("star", "fish")]
    return dreambooth(as_change("data.instance", instances), as_change("data.prior", priors))


def shade(picture) -> int:
    return int(np.asarray(picture)[0, 0, 0])


def test_photos_are_what_the_run_saw():
    recipe = dreambooth(as_change("data.instance.path", str(toybox.pictures())))
    found = learned_from(recipe, None)
    files = sorted(toybox.pictures().glob("*.png"))
    assert len(found.photos) == len(files)
    for photo, file in zip(found.photos, files, strict=True):
        wanted = images.decode(file.read_bytes(), file.name, recipe.data.background)
        assert photo.tobytes() == wanted.tobytes()
    assert (found.subject, found.plain, found.notes) == ("a photo of sks dog", "a photo of a dog", ())


def test_one_of_several_subjects_is_measured_and_the_others_are_named(two):
    found = learned_from(two, None)
    assert (found.subject, found.plain, [shade(p) for p in found.photos]) == (
        "a photo of sks star",
        "a photo of a star",
        [10],
    )
    assert "qv fish" in found.notes[0]
    other = learned_from(two, None, "a photo of qv fish")
    assert (other.subject, other.plain, [shade(p) for p in other.photos]) == (
        "a photo of qv fish",
        "a photo of a fish",
        [200],
    )
    assert other.notes == ()


def test_a_subject_that_is_none_of_several_is_refused(two, tmp_path):
    with pytest.raises(UsageError, match="none of them 'a photo of a cow'") as caught:
        learned_from(two, None, "a photo of a cow")
    assert "sks star" in caught.value.hint
    assert len(learned_from(two, tmp_path / "two", "a photo of a cow").photos) == 1


def test_a_style_is_compared_with_what_it_learned_from_where_it_is_named():
    recipe = load_recipe("lora", [], rehearse=True)
    found = learned_from(recipe, None)
    assert (len(found.photos), found.subject, found.plain) == (16, None, None)
    said = {path.read_text().strip() for path in (toybox.PICTURES / "images").glob("*.txt")}
    assert set(found.captions) == said
    named = learned_from(recipe, None, "a house in sks style")
    assert len(named.photos) == 16
    assert (named.subject, named.captions) == ("a house in sks style", ())


def test_pictures_of_a_style_that_are_gone_are_missed_and_can_be_said(tmp_path):
    """The rest of the report needs none of them."""
    there = tmp_path / "there"
    shutil.copytree(toybox.PICTURES / "images", there)
    recipe = load_recipe("lora", [as_change("data.images.path", str(there))], rehearse=True)
    there.rename(tmp_path / "moved")
    found = learned_from(recipe, None)
    assert (found.photos, found.captions) == ((), ())
    (note,) = found.notes
    assert "there is no" in note
    assert "--photos" in note
    assert len(learned_from(recipe, tmp_path / "moved").photos) == 16
    with pytest.raises(DataError, match="nowhere"):
        learned_from(recipe, tmp_path / "nowhere")


def test_of_many_pictures_of_a_style_the_first_count(monkeypatch):
    monkeypatch.setattr("tuner.evaluation.photos.MOST", 3)
    found = learned_from(load_recipe("lora", [], rehearse=True), None)
    assert len(found.photos) == 3
    assert found.notes == ("likeness to 13 of 16 photos: the first 3 are compared with",)


def test_of_pairs_what_was_chosen_counts():
    recipe = load_recipe("dpo", rehearse=True)
    chosen = sorted((toybox.PICTURES / "pairs" / "chosen").glob("*.png"))
    found = learned_from(recipe, None, "a green house")
    assert len(found.photos) == len(chosen)
    assert found.subject == "a green house"
    assert images.decode(chosen[0].read_bytes(), "x", "white").tobytes() == found.photos[0].tobytes()
    assert not learned_from(recipe, None).photos


def test_photos_without_a_subject_are_not_ignored(tmp_path):
    with pytest.raises(UsageError, match="--photos has nothing"):
        learned_from(load_recipe("dpo", [], rehearse=True), tmp_path)


def test_moved_photos_are_found_where_the_user_says(tmp_path):
    there = tmp_path / "there"
    shutil.copytree(toybox.pictures(), there)
    recipe = dreambooth(as_change("data.instance.path", str(there)))
    there.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"there is no .*there") as caught:
        learned_from(recipe, None)
    assert "--photos" in caught.value.hint
    assert len(learned_from(recipe, tmp_path / "moved").photos) == 5


def test_class_pictures_need_not_be_there(tmp_path):
    gone = tmp_path / "class"
    shutil.copytree(toybox.pictures(), gone)
    recipe = dreambooth(as_change("data.prior", {"path": str(gone), "caption": "a photo of a mushroom"}))
    shutil.rmtree(gone)
    assert len(learned_from(recipe, None).photos) == 5


def test_what_cannot_be_read_is_named(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    found = learned_from(dreambooth(), tmp_path)
    assert len(found.photos) == 1
    assert any("bad.png" in note for note in found.notes)


def test_only_so_many_photos_are_compared_with(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.evaluation.photos.MOST", 3)
    found = learned_from(dreambooth(as_change("data.instance.path", str(toybox.pictures()))), None)
    assert len(found.photos) == 3
    assert found.notes == ("likeness to 2 of 5 photos: the first 3 are compared with",)
