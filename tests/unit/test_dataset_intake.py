"""What is dropped is judged on arrival: every kind of file once, and nothing of it but its pixels is kept."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest
from dropped import encoded, image, pixels, said, sound, zipped
from PIL import Image, ImageCms, PngImagePlugin

from tuner.dataset import Dataset, Limits, intake, intake_paths, pictures
from tuner.errors import DataError, UsageError

ORIENTATION, GPS = 0x0112, 0x8825


@pytest.fixture
def dataset(tmp_path):
    return Dataset.new(tmp_path / "d", "my dog")


def one(dataset, name, data, **limits):
    (verdict,) = intake(dataset, name, data, Limits(**limits))
    return verdict


def kept(dataset):
    (picture,) = dataset.contents().pictures
    return np.asarray(Image.open(dataset.images / picture.file_name))


def saved(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("PNG", "a.png"), ("BMP", "a.bmp"), ("TIFF", "a.tif"), ("JPEG", "a.JPG"), ("WEBP", "a.webp"), ("AVIF", "a.avif")],
)
def test_each_format_is_kept_as_its_pixels_are(dataset, kind, name):
    data = encoded(1, kind)
    verdict = one(dataset, name, data)
    assert verdict.accepted, verdict
    decoded = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(kept(dataset), decoded)
    contents, captions = sound(dataset)
    assert contents.pictures[0].name == name
    assert captions == {verdict.picture: ""}


def test_a_lossless_picture_loses_nothing(dataset):
    assert one(dataset, "a.png", encoded(3)).accepted
    assert np.array_equal(kept(dataset), pixels(3))


def test_heic_is_read(dataset):
    heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    heif.from_pillow(image(2, (64, 48))).save(out, quality=90)
    assert one(dataset, "IMG_1.HEIC", out.getvalue()).accepted
    assert dataset.contents().pictures[0].source == "HEIF"


def test_heic_without_the_extra_names_it(dataset, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    verdict = one(dataset, "a.heic", data)
    assert not verdict.accepted
    assert "pip install 'diffusion-tuner[data]'" in verdict.reason


def test_a_large_photo_becomes_a_jpeg_and_a_large_drawing_stays_exact(dataset, monkeypatch):
    monkeypatch.setattr(pictures, "EXACT_PIXELS", 48 * 32 - 1)
    assert one(dataset, "photo.jpg", encoded(1, "JPEG")).accepted
    assert one(dataset, "drawing.png", encoded(2)).accepted
    photo, drawing = dataset.contents().pictures
    assert (photo.ending, drawing.ending) == (".jpg", ".png")
    sound(dataset)


def test_where_it_was_taken_is_gone(dataset):
    exif = Image.Exif()
    exif[ORIENTATION] = 1
    exif.get_ifd(GPS)[2] = (52.0, 31.0, 12.25)
    exif[0x010E] = "secret words"
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "secret words")
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "a.jpg": encoded(1, "JPEG", exif=exif, comment=b"secret words", icc_profile=icc),
        "b.png": encoded(2, "PNG", exif=exif, pnginfo=info, icc_profile=icc),
        "c.webp": encoded(3, "WEBP", exif=exif, xmp=b"<x>secret words</x>"),
        "d.tif": encoded(4, "TIFF", description="secret words"),
    }
    for name, data in files.items():
        assert b"secret words" in data
        assert one(dataset, name, data + b"secret words behind").accepted
    for path in [*dataset.images.glob("*.*g"), *dataset.thumbs.iterdir()]:
        data = path.read_bytes()
        assert b"secret" not in data
        assert not any(word in data for word in (b"Exif", b"eXIf", b"ICC", b"iCCP", b"http"))
        assert set(Image.open(io.BytesIO(data)).info) <= {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
            "loop",
            "background",
        }
    assert sorted(picture.name for picture in dataset.contents().pictures) == sorted(files)


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_upright(dataset, turn):
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    assert one(dataset, "a.png", encoded(1, exif=exif)).accepted
    picture = dataset.contents().pictures[0]
    assert picture.size == ((32, 48) if turn >= 5 else (48, 32))
    from PIL import ImageOps

    assert np.array_equal(
        kept(dataset), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(1, exif=exif)))))
    )


def test_what_is_see_through_is_white_and_said(dataset):
    rgba = np.dstack([pixels(1), np.full((32, 48), 255, np.uint8)])
    assert not one(dataset, "opaque.png", saved(Image.fromarray(rgba), "PNG")).notes
    rgba[:, :10, 3] = 0
    verdict = one(dataset, "hole.png", saved(Image.fromarray(rgba), "PNG"))
    assert verdict.notes == ("its transparent parts are white now",)
    picture = dataset.contents().pictures[1]
    assert (np.asarray(Image.open(dataset.images / picture.file_name))[:, :10] == 255).all()
    assert picture.notes == verdict.notes


def test_deep_and_cmyk_pictures_are_converted(dataset):
    deep = (np.arange(48 * 32, dtype=np.uint32) * 42 % 65536).astype(np.uint16).reshape(32, 48)
    assert one(dataset, "deep.png", saved(Image.fromarray(deep), "PNG")).accepted
    gray = np.asarray(Image.open(dataset.images / dataset.contents().pictures[0].file_name))[..., 0].astype(int)
    assert np.abs(gray - deep / 257).max() <= 1
    verdict = one(dataset, "print.jpg", saved(image(2).convert("CMYK"), "JPEG"))
    assert verdict.accepted
    assert "CMYK" in verdict.notes[0]


REFUSED = {
    "broken.png": (encoded(1)[:-40], "broken PNG"),
    "cut.jpg": (encoded(1, "JPEG")[:-200], "broken JPEG"),
    "empty.png": (b"", "empty"),
    "words.jpg": (b"hello", "text"),
    "page.png": (b"<html><script>alert(1)</script>", "web page"),
    "vector.svg": (b"<svg onload=alert(1)>", "save it as PNG"),
    "tiny.png": (encoded(1, size=(9, 9)), "too small"),
    "long.png": (encoded(1, size=(400, 20)), "crop it"),
    "film.mp4": (b"\0\0\0\x18ftypmp42", "videos"),
    "raw.dng": (b"II*\0", "raw photos"),
    "a.7z": (b"7z", "pack the pictures as .zip"),
    "notes.md": (b"hello", "text"),
    "table.csv": (b"a,b", "metadata.csv"),
    ".DS_Store": (b"\0\0\0\1Bud1", "hidden file"),
    "large.png": (encoded(2, size=(200, 200)), "more than the limit"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_picture_is_listed_with_the_reason(dataset, name):
    data, reason = REFUSED[name]
    verdict = one(dataset, name, data, file_bytes=100_000)
    assert not verdict.accepted
    assert reason in verdict.reason
    assert not verdict.reason.startswith(name)
    contents, _ = sound(dataset)
    assert [(refused.name, refused.reason) for refused in contents.refused] == [(name, verdict.reason)]


def test_an_animation_is_refused(dataset):
    frames = saved(image(1), "GIF", save_all=True, append_images=[image(2)])
    assert "animated" in one(dataset, "a.gif", frames).reason


def test_an_exact_copy_is_told_whatever_its_file(dataset):
    first = one(dataset, "a.png", encoded(1))
    second = one(dataset, "b.bmp", encoded(1, "BMP"))
    assert not second.accepted
    assert second.reason == "an exact copy of a.png, which is here already"
    assert second.picture == first.picture
    assert one(dataset, "c.png", encoded(1, size=(32, 48))).accepted  # as many pixels, another shape


def test_refused_files_are_kept_up_to_a_number(dataset, monkeypatch):
    from tuner.dataset import landing

    monkeypatch.setattr(landing, "MAX_REFUSED", 3)
    for number in range(5):
        one(dataset, f"{number}.png", b"")
    contents = dataset.contents()
    assert [refused.name for refused in contents.refused] == ["2.png", "3.png", "4.png"]
    assert contents.refused_before == 2
    landing.forget_refused(dataset)
    assert dataset.contents().refused == ()


def test_no_more_than_there_is_room_for(dataset):
    data = zipped([(f"{n}.png", encoded(n)) for n in range(4)])
    verdicts = intake(dataset, "a.zip", data, Limits(room_bytes=10_000))
    assert [verdict.accepted for verdict in verdicts[1:]] == [True, True, False, False]
    assert "no room" in verdicts[3].reason
    sound(dataset)


def test_a_full_dataset_says_so(dataset, monkeypatch):
    from tuner.dataset import landing

    monkeypatch.setattr(landing, "MAX_PICTURES", 1)
    assert one(dataset, "a.png", encoded(1)).accepted
    assert "full" in one(dataset, "b.png", encoded(2)).reason


# captions beside pictures


@pytest.mark.parametrize("order", ["caption first", "picture first"])
def test_a_caption_finds_its_picture_in_either_order(dataset, order):
    files = [("Dog.PNG", encoded(1)), ("dog.txt", "\ufeffein Hündchen".encode())]
    for name, data in files if order == "picture first" else files[::-1]:
        assert one(dataset, name, data).accepted
    contents, captions = sound(dataset)
    assert list(captions.values()) == ["ein Hündchen"]
    assert contents.waiting == ()


def test_a_caption_waits_and_is_listed(dataset):
    assert one(dataset, "dog.txt", b"a dog").notes == ("waits for the picture of that name",)
    assert [waiting.name for waiting in dataset.contents().waiting] == ["dog.txt"]
    one(dataset, "dog.txt", b"another")
    assert [waiting.text for waiting in dataset.contents().waiting] == ["another"]
    one(dataset, "cat.png", encoded(1))
    assert len(dataset.contents().waiting) == 1


def test_a_second_caption_takes_the_place_and_can_be_taken_back(dataset):
    from tuner.dataset import editing

    one(dataset, "dog.png", encoded(1))
    one(dataset, "dog.txt", b"a dog")
    verdict = one(dataset, "dog.txt", b"my dog")
    assert "in place of 'a dog'" in verdict.notes
    assert list(dataset.captions().values()) == ["my dog"]
    editing.undo(dataset)
    assert list(dataset.captions().values()) == ["a dog"]
    assert not editing.undo(dataset).what  # a caption that there was none before is no edit


def test_a_caption_that_could_mean_two_pictures_is_refused(dataset):
    one(dataset, "a.png", encoded(1))
    one(dataset, "a.jpg", encoded(2, "JPEG"))
    verdict = one(dataset, "a.txt", b"a dog")
    assert not verdict.accepted
    assert "2 pictures have that name (a.png, a.jpg)" in verdict.reason
    assert set(dataset.captions().values()) == {""}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "byte 3 (0xe9) is not UTF-8"),
        ("a dog".encode("utf-16"), "UTF-16"),
        (b"x" * 5000, "the limit is 4,096"),
        (b" \n", "empty"),
        (b"x" * 100_000, "limit"),
    ],
    ids=["latin", "utf16", "long", "blank", "very long"],
)
def test_captions_that_cannot_be_used(dataset, data, reason):
    verdict = one(dataset, "a.txt", data)
    assert not verdict.accepted
    assert reason in verdict.reason
    assert dataset.contents().waiting == ()


def test_captions_are_cleaned_and_said_so(dataset):
    one(dataset, "a.png", encoded(1))
    verdict = one(dataset, "a.txt", "a\u202edog\n<b>on\0</b> it".encode())
    assert list(dataset.captions().values()) == ["adog <b>on</b> it"]
    assert any("lines joined" in note for note in verdict.notes)
    assert any("text direction" in note for note in verdict.notes)


def test_a_table_captions_pictures_that_are_there_and_that_come(dataset):
    one(dataset, "1.png", encoded(1))
    table = "".join(
        json.dumps(row) + "\n"
        for row in [
            {"file_name": "1.png", "text": "one"},
            {"file_name": "2.png", "text": ["two", "zwei"]},
            {"file_name": "../3.png", "text": "three"},
            {"file_name": "4.png", "text": ""},
        ]
    )
    verdicts = intake(dataset, "metadata.jsonl", (table + "{nonsense\n").encode())
    assert said(verdicts) == [
        ("metadata.jsonl:1", True),
        ("metadata.jsonl:2", True),
        ("metadata.jsonl:4", False),
        ("metadata.jsonl:3", False),
        ("metadata.jsonl:5", False),
    ]
    assert "the first of 2 captions counts" in verdicts[1].notes
    one(dataset, "2.jpg", encoded(3, "JPEG"))  # another picture than the row names
    one(dataset, "2.png", encoded(2))
    assert [dataset.captions()[picture.id] for picture in dataset.contents().pictures] == ["one", "", "two"]


def test_a_csv_and_other_keys(dataset):
    one(dataset, "a.png", encoded(1))
    assert one(dataset, "metadata.csv", b"file_name,caption\na.png,a dog\n").accepted
    assert list(dataset.captions().values()) == ["a dog"]
    assert "call the captions `text`" in one(dataset, "metadata.csv", b"file_name,words\na.png,x\n").reason
    assert "file_name" in one(dataset, "metadata.csv", b"a,b\n1,2\n").reason
    assert "no captions" in one(dataset, "metadata.jsonl", b"").reason


# several at once


def test_a_folder_keeps_captions_with_their_pictures(dataset, tmp_path):
    folder = tmp_path / "photos"
    for place in ("a", "b"):
        (folder / place).mkdir(parents=True)
        (folder / place / "1.png").write_bytes(encoded(ord(place)))
        (folder / place / "1.txt").write_text(place)
    (folder / "lost.txt").write_text("lost")
    os.symlink("/etc/passwd", folder / "link.png")
    verdicts = list(intake_paths(dataset, [folder]))
    assert sorted(dataset.captions().values()) == ["a", "b"]
    assert ("link.png", False) in said(verdicts)
    assert ("lost.txt", True) in said(verdicts)  # waits
    assert len(verdicts) == 6
    with pytest.raises(UsageError):
        list(intake_paths(dataset, [tmp_path / "nowhere"]))


def test_a_zip_pairs_its_own_captions(dataset):
    one(dataset, "1.png", encoded(9))
    rows = '{"file_name": "1.png", "text": "row one"}\n{"file_name": "2.png", "text": "row two"}\n'
    data = zipped(
        [
            ("set/1.png", encoded(1)),
            ("set/1.txt", b"one"),
            ("set/2.png", encoded(2)),
            ("set/metadata.jsonl", rows.encode()),
            ("set/3.txt", b"three"),
            ("set/4.png", b"broken"),
            ("set/4.txt", b"four"),
            ("set/9.png", encoded(9)),
            ("__MACOSX/set/._1.png", b"\0"),
            ("set/.DS_Store", b"\0"),
        ]
    )
    verdicts = {verdict.name: verdict for verdict in intake(dataset, "photos.zip", data)}
    captions = {picture.name: dataset.captions()[picture.id] for picture in dataset.contents().pictures}
    assert [dataset.captions()[picture.id] for picture in dataset.contents().pictures] == ["", "one", "row two"]
    assert captions["2.png"] == "row two"
    assert verdicts["photos.zip"].notes[0] == "2 pictures of 8 files taken in"
    assert "2 hidden files left out" in verdicts["photos.zip"].notes[1]
    reasons = {name: verdict.reason for name, verdict in verdicts.items() if not verdict.accepted}
    assert set(reasons) == {"3.txt", "4.png", "4.txt", "9.png", "metadata.jsonl:1"}
    assert reasons["3.txt"] == "no picture of that name in the zip"
    assert reasons["4.txt"] == "its picture 4.png is not used"
    assert reasons["metadata.jsonl:1"] == "1.txt says it already"
    assert dataset.contents().waiting == ()
    sound(dataset)


def test_a_zip_dropped_again_has_nothing_new(dataset):
    data = zipped([("1.png", encoded(1)), ("1.txt", b"one")])
    intake(dataset, "a.zip", data)
    whole, picture, caption = intake(dataset, "a.zip", data)
    assert whole.reason == "no picture in it is new"
    assert picture.reason == "an exact copy of 1.png, which is here already"
    assert caption.reason == "its picture is here already; drop 1.txt alone to change the caption"


# a folder of datasets, and training


def test_training_reads_the_captions(dataset):
    from tuner import load_recipe
    from tuner.data.scan import scan
    from tuner.watch import Watcher

    for number, text in enumerate(["a dog", "a dog on the beach"]):
        one(dataset, f"{number}.png", encoded(number, size=(64, 64)))
        one(dataset, f"{number}.txt", text.encode())
    recipe = load_recipe("dreambooth_lora", [f"data.instance.path={dataset.images}", "data.trigger=tok"])
    found = scan(recipe, decode=True, watcher=Watcher())
    examples = found.examples["instance"]
    assert sorted(example.captions for example in examples) == [("tok, a dog",), ("tok, a dog on the beach",)]
    assert {example.caption_from for example in examples} == {"metadata"}
    assert not found.refused
    assert not [note for note in found.notes if "left out" in note]


def test_a_dataset_is_named_renamed_and_deleted(dataset, tmp_path):
    assert dataset.rename("  my\n cat\u202e ") == "my cat"
    assert Dataset.open(dataset.path).contents().name == "my cat"
    for bad in ("", "\n", "x" * 101):
        with pytest.raises(UsageError):
            dataset.rename(bad)
    with pytest.raises(UsageError):
        Dataset.new(dataset.path, "again")
    one(dataset, "a.png", encoded(1))
    dataset.delete()
    assert not list(tmp_path.iterdir())
    for call in (dataset.contents, lambda: one(dataset, "a.png", encoded(1)), dataset.delete):
        with pytest.raises(UsageError, match="there is no dataset"):
            call()
    assert not list(tmp_path.iterdir())


def test_files_put_there_by_hand_stay_and_files_taken_away_are_told(dataset):
    one(dataset, "a.png", encoded(1))
    one(dataset, "b.png", encoded(2))
    first, second = dataset.contents().pictures
    (dataset.images / "mine.png").write_bytes(encoded(3))
    rows = (dataset.images / "metadata.jsonl").read_text()
    (dataset.images / "metadata.jsonl").write_text(rows + '{"file_name": "mine.png", "text": "mine", "by": "hand"}\n')
    (dataset.images / first.file_name).unlink()
    (dataset.thumbs / second.thumb_name).unlink()
    contents = dataset.contents()
    assert [picture.name for picture in contents.pictures] == ["b.png"]
    assert contents.refused[-1].name == "a.png"
    assert (dataset.thumbs / second.thumb_name).is_file()
    one(dataset, "b.txt", b"b")
    assert (dataset.images / "mine.png").is_file()
    assert '"by": "hand"' in (dataset.images / "metadata.jsonl").read_text()


def test_files_that_make_no_sense_are_named(dataset):
    one(dataset, "a.png", encoded(1))
    (dataset.images / "metadata.jsonl").write_text("nonsense\n")
    with pytest.raises(DataError, match=r"metadata.jsonl:1: not JSON"):
        dataset.captions()
    (dataset.images / "metadata.jsonl").unlink()
    whole = (dataset.path / "dataset.json").read_text()
    for bad in (
        "{",
        whole.replace('"ending":".png"', '"ending":"/../../x"').replace('"ending": ".png"', '"ending": "/"'),
    ):
        assert bad != whole
        (dataset.path / "dataset.json").write_text(bad)
        with pytest.raises(DataError, match="dataset.json"):
            Dataset.open(dataset.path)


def test_images_that_are_gone_altogether_are_no_reason_to_forget_them(dataset):
    one(dataset, "a.png", encoded(1))
    dataset.images.rename(dataset.path / "elsewhere")
    with pytest.raises(DataError, match="is gone"):
        dataset.contents()
    (dataset.path / "elsewhere").rename(dataset.images)
    assert len(dataset.contents().pictures) == 1
