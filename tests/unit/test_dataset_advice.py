"""Advice in plain words, crops that are training's own, and an export that comes back as it was."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from dropped import encoded, image, sound
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from tuner import toybox
from tuner.data import images
from tuner.dataset import Dataset, intake, intake_paths
from tuner.dataset.advice import advise, near_duplicates
from tuner.dataset.crops import crop, options
from tuner.dataset.export import export, file_names
from tuner.errors import UsageError


@pytest.fixture
def dataset(tmp_path):
    return Dataset.new(tmp_path / "d", "d")


def add(dataset, name, picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    (verdict,) = intake(dataset, name, out.getvalue())
    assert verdict.accepted, verdict
    return verdict.picture


def kinds(dataset, data=None):
    return {advice.kind: advice for advice in advise(dataset.contents().pictures, dataset.captions(), data)}


def toys():
    return [Image.open(path).convert("RGB") for path in sorted(toybox.pictures().glob("*.png"))]


def test_an_empty_dataset_needs_no_advice(dataset):
    assert kinds(dataset) == {}


def test_few_pictures_and_no_captions(dataset):
    add(dataset, "a.png", image(1))
    found = kinds(dataset)
    assert set(found) == {"few", "no_caption"}
    assert "Only 1 picture." in found["few"].text
    assert found["no_caption"].pictures == tuple(dataset.captions())


def test_a_blurred_picture_is_found_and_a_sharp_one_is_not(dataset):
    toy = toys()[0]
    add(dataset, "sharp.png", toy)
    blurred = add(dataset, "blurred.png", toy.filter(ImageFilter.GaussianBlur(2)))
    add(dataset, "flat.png", Image.new("RGB", (64, 64), "red"))
    advice = kinds(dataset)["blurred"]
    assert advice.pictures == (blurred,)
    assert "blurred.png is blurred" in advice.text


def test_near_duplicates_survive_scaling_and_encoding(dataset):
    same = []
    for number, toy in enumerate(toys()[:4]):
        first = add(dataset, f"{number}.png", toy)
        second = add(dataset, f"{number}b.jpg", toy.resize((400, 400)).point(lambda v: min(255, v + 4)), "JPEG")
        same.append((first, second))
    groups = near_duplicates(dataset.contents().pictures)
    assert groups == same
    assert "4 groups" in kinds(dataset)["near_duplicates"].text


def test_pictures_that_all_look_alike_are_said_once(dataset):
    toy = toys()[0]
    for number in range(6):
        add(dataset, f"{number}.png", toy.point(lambda v, n=number: min(255, v + n)))
    found = kinds(dataset)
    assert "near_duplicates" not in found
    assert len(found["alike"].pictures) == 6


def test_one_caption_for_all(dataset):
    for number in range(5):
        add(dataset, f"{number}.png", image(number))
        intake(dataset, f"{number}.txt", b"a dog")
    assert set(kinds(dataset)) == {"same_caption"}


def test_too_small_and_cut(dataset):
    small = add(dataset, "small.png", image(1, (100, 100)))
    wide = add(dataset, "wide.png", image(2, (1600, 300)))
    found = kinds(dataset, options(512))
    assert found["small"].pictures == (small,)
    assert found["cropped"].pictures == (wide,)
    assert "small" not in kinds(dataset, options(128))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    resolution=st.integers(4, 40).map(lambda n: 8 * n),
    how=st.sampled_from(["buckets", "center", "random"]),
)
def test_a_crop_is_the_one_of_training(size, resolution, how):
    """Where every pixel says where it is, what training cuts shows the box."""
    data = options(resolution, how, 16 if how == "buckets" else None)
    found = crop(size, data)
    left, top, right, bottom = found.box
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert found.kept == pytest.approx((right - left) * (bottom - top) / (size[0] * size[1]), abs=1e-6)
    y, x = np.mgrid[: size[1], : size[0]]
    picture = Image.fromarray(np.stack([x * 255 // size[0], y * 255 // size[1], 0 * x], -1).astype(np.uint8))
    trained = images.fit(picture, found.size)
    shown = np.asarray(picture.resize(found.size, Image.Resampling.LANCZOS, box=found.box))
    assert np.array_equal(trained, shown)


def test_options_that_cannot_be_meant():
    for bad in ((500,), (512, "oval"), (512, "center", 64), (64, "buckets", 128), (10**9,)):
        with pytest.raises(UsageError):
            options(*bad)


def test_an_export_comes_back_as_it_was(dataset, tmp_path):
    names = [
        "a.png",
        "A.jpg",
        "con.png",
        "x/../\u202e.png",
        "metadata.png",
        "x..png",
        "é \U0001f415.png",
        "a" * 300 + ".png",
    ]
    for number, name in enumerate(names):
        add(dataset, name, image(number), "PNG")
        if number % 2:
            from tuner.dataset.editing import Whole, apply

            apply(dataset, Whole(f"caption {number} ü \u2028 <b>"), [list(dataset.captions())[-1]])
    written = export(dataset, tmp_path / "out.zip")
    assert written.pictures == len(names)
    with zipfile.ZipFile(written.path) as archive:
        inside = archive.namelist()
        assert inside[0] == "metadata.jsonl"
        assert len({name.casefold() for name in inside}) == len(names) + 1
        rows = [json.loads(line) for line in archive.read("metadata.jsonl").decode().split("\n") if line]
        assert [row["file_name"] for row in rows] == inside[1:]
    again = Dataset.new(tmp_path / "again", "again")
    assert not [
        verdict
        for verdict in intake(again, "out.zip", written.path)
        if not verdict.accepted and "empty" not in verdict.reason
    ]
    one, other = sound(dataset), sound(again)
    assert [picture.pixels for picture in one[0].pictures] == [picture.pixels for picture in other[0].pictures]
    assert list(one[1].values()) == list(other[1].values())
    assert export(again, tmp_path / "twice.zip").bytes == export(again, tmp_path / "twice.zip").bytes
    assert not list(tmp_path.glob(".tmp*"))


def test_exported_names_hold_nothing_strange(dataset):
    for number, name in enumerate(["../../x.png", "a\0b.png", "NUL", "  .png", "a:b*c?.png", "x/ .png "]):
        add(dataset, name, image(number))
    names = file_names(dataset.contents().pictures)
    assert names == ["x.png", "a_x00b.png", "picture NUL.png", "picture.png", "a_b_c.png", "picture (2).png"]


def test_a_folder_exported_is_the_folder_taken_in(tmp_path, dataset):
    """What training wrote by hand comes in: the bundled photos."""
    verdicts = list(intake_paths(dataset, [toybox.pictures()]))
    assert all(verdict.accepted for verdict in verdicts if verdict.kind == "picture")
    sound(dataset)


def test_the_thumbnail_is_small(dataset):
    add(dataset, "a.png", image(1, (600, 900)))
    (picture,) = dataset.contents().pictures
    with Image.open(dataset.thumbs / picture.thumb_name) as thumb:
        assert thumb.size == (171, 256)
        assert thumb.format == "WEBP"
    assert encoded(1)
