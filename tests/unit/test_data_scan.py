"""A folder of pictures to examples: order, captions, and every file that is not used named with the reason."""

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tuner.data import folder
from tuner.data.scan import Refused, scan, scan_folder
from tuner.data.sources import Source
from tuner.errors import DataError
from tuner.recipe import Recipe
from tuner.sections import DataOptions
from tuner.watch import Watcher

PHOTOS = Path(os.environ.get("TUNER_TEST_PHOTOS", Path(__file__).parents[3] / "shared/data/dreambooth"))


def picture(seed=0, size=(64, 48), kind="PNG", **options):
    out = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


def fill(root, *names, start=0):
    for seed, name in enumerate(names, start):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed))


def recipe(**data):
    task = "finetune" if "images" in data else "dreambooth"
    return Recipe.model_validate(
        {
            "backbone": {"name": "sd15", "model": "toybox"},
            "adapters": ["lora"],
            "task": task,
            "data": {"resolution": 64, "bucket_step": 8, **data},
            "train": {"steps": 1},
        }
    )


def look(root, *, decode=False, options=None, **source):
    source.setdefault("caption", "a dog")
    given = {"path": str(root), **{k: v for k, v in source.items() if v is not None}}
    return scan(recipe(images=given, **(options or {})), decode=decode, watcher=Watcher())


def names(result, role="images"):
    return [Path(example.name).name for example in result.examples[role]]


def by_name(result, role="images"):
    return {Path(example.name).name: example for example in result.examples[role]}


def reasons(result):
    return {item.name.rsplit("/", 1)[-1]: item.reason for item in result.refused}


def noted(result, *words):
    return [note for note in result.notes if all(word in note for word in words)]


def test_order_is_natural_and_suffixes_are_of_any_case(tmp_path):  # trap 20
    fill(
        tmp_path, "img10.png", "IMG2.PNG", "img1.Jpg", "Img3.webp", "b/img0.png", "a1/z.jpeg", "a10/z.jpeg", "a2/z.jpeg"
    )
    found = [Path(e.name).relative_to(tmp_path).as_posix() for e in look(tmp_path).examples["images"]]
    assert found == [
        "a1/z.jpeg",
        "a2/z.jpeg",
        "a10/z.jpeg",
        "b/img0.png",
        "img1.Jpg",
        "IMG2.PNG",
        "Img3.webp",
        "img10.png",
    ]


@given(
    st.lists(st.text("aAbB019_/.", min_size=1, max_size=6).map(lambda s: s.strip("/") or "x"), unique=True),
    st.randoms(),
)
def test_natural_order_is_total_and_forgets_the_order_of_the_disk(paths, random):
    shuffled = random.sample(paths, len(paths))
    assert sorted(shuffled, key=folder.natural) == sorted(paths, key=folder.natural)


def test_an_example_says_all_of_itself(tmp_path):
    fill(tmp_path, "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (example,) = look(tmp_path, repeats=3, weight=0.5).examples["images"]
    assert example.digest == hashlib.sha256(data).hexdigest()
    assert example.uid == example.digest[:16]
    assert (example.role, example.size, example.captions, example.caption_from) == (
        "images",
        (64, 48),
        ("a dog",),
        "recipe",
    )
    assert (example.repeats, example.weight, example.read()) == (3, 0.5, data)


def test_size_is_the_upright_one(tmp_path):  # trap 16
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(picture(kind="JPEG", exif=exif))
    assert look(tmp_path).examples["images"][0].size == (48, 64)


def test_a_file_that_changes_or_goes_after_the_scan_is_named(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    first, second = look(tmp_path).examples["images"]
    fill(tmp_path, "a.png", start=9)
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: has changed"):
        first.read()
    with pytest.raises(DataError, match=r"b\.png: cannot be read"):
        second.read()


def test_exact_duplicates_are_kept_told_apart_and_noted(tmp_path):
    fill(tmp_path, "a.png", "c.png")
    for copy in ("b.png", "d.png"):
        (tmp_path / copy).write_bytes((tmp_path / "a.png").read_bytes())
    result = look(tmp_path)
    uid = result.examples["images"][0].uid
    assert [e.uid for e in result.examples["images"]] == [uid, f"{uid}-1", by_name(result)["c.png"].uid, f"{uid}-2"]
    assert noted(result, "exact copies", "b.png", "d.png")
    more = scan_folder(
        tmp_path, Source(path="x", caption="a"), "images", DataOptions(resolution=64),
        watcher=Watcher(), after=result.examples["images"],
    )  # fmt: skip
    assert more.examples["images"][0].uid == f"{uid}-3"


def test_each_caption_comes_from_where_it_should_and_is_counted(tmp_path):
    fill(tmp_path, "a.png", "b.png", "c.png", "d.png", "sub/e.png")
    (tmp_path / "a.txt").write_text("from txt\n")
    (tmp_path / "b.txt").write_text("  \n")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "from row"}\n'
        '{"file_name": "c.png", "text": ["one", "two", " "]}\n'
        '{"file_name": "sub/e.png", "text": "nested"}\n'
    )
    result = look(tmp_path)
    assert {name: (e.captions, e.caption_from) for name, e in by_name(result).items()} == {
        "a.png": (("from txt",), "txt"),
        "b.png": (("a dog",), "recipe"),
        "c.png": (("one", "two"), "metadata"),
        "d.png": (("a dog",), "recipe"),
        "e.png": (("nested",), "metadata"),
    }
    assert noted(result, "5 pictures; captions: 1 from .txt, 2 from the metadata file, 2 from data.images.caption")
    assert noted(result, "the .txt counts, and not the row", "a.png")
    assert noted(result, "the .txt is empty", "b.png")
    assert noted(result, "empty captions among its alternatives", "c.png")


def test_pictures_without_a_caption_are_all_named(tmp_path):
    fill(tmp_path, *(f"{i}.png" for i in range(12)))
    with pytest.raises(DataError, match="12 pictures without a caption: .*0.png.*11.png") as caught:
        look(tmp_path, caption=None)
    assert caught.value.hint == "give data.images.caption or write a .txt beside each"


def test_captions_that_are_not_needed_are_not_asked_for(tmp_path):
    fill(tmp_path, "a.png")
    result = look(tmp_path, caption=None, options={"trigger": "sks"})
    assert (result.examples["images"][0].captions, result.examples["images"][0].caption_from) == (("sks",), "none")
    assert noted(result, "1 missing, so it is the trigger alone")
    assert look(tmp_path, caption=None, options={"caption_dropout": 1}).examples["images"][0].captions == ("",)
    explicit = look(tmp_path, caption="")
    assert (explicit.examples["images"][0].captions, explicit.examples["images"][0].caption_from) == (("",), "recipe")
    assert noted(explicit, "1 caption empty", "a.png")


def test_the_trigger_goes_to_the_first_role_alone(tmp_path):
    fill(tmp_path, "dog/a.png", "class/b.png")
    (tmp_path / "dog/a.txt").write_text("a photo of a dog")
    given = recipe(
        instance={"path": str(tmp_path / "dog")},
        prior={"path": str(tmp_path / "class"), "caption": "a dog"},
        trigger="sks",
    )
    result = scan(given, decode=False, watcher=Watcher())
    assert result.examples["instance"][0].captions == ("sks, a photo of a dog",)
    assert result.examples["prior"][0].captions == ("a dog",)


def test_captions_are_cleaned_and_that_is_said(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_bytes("a\0 dog \u202eevil".encode())
    (tmp_path / "b.txt").write_text("one\ntwo")
    result = look(tmp_path)
    assert [e.captions for e in result.examples["images"]] == [("a dog evil",), ("one two",)]
    assert noted(result, "control characters taken out", "a.png")
    assert noted(result, "text direction marks", "a.png")
    assert noted(result, "2 lines joined", "b.png")


def test_a_caption_file_that_cannot_be_used_takes_its_picture_with_it_by_name(tmp_path):
    fill(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.txt").write_bytes(b"x" * 5000)
    result = look(tmp_path)
    assert names(result) == ["c.png"]
    assert reasons(result) == {
        "a.png": "a.txt: byte 3 (0xe9) is not UTF-8; save it as UTF-8",
        "b.png": "b.txt: a caption of 5,000 bytes; the limit is 4,096",
    }


def test_pictures_that_share_a_caption_file_are_refused_by_name(tmp_path):
    fill(tmp_path, "a.png", "a.jpg", "b.png", "b.jpg", "Dog.PNG", "cat.png", "Cat.png")
    for text in ("a.txt", "dog.TXT", "cat.txt"):
        (tmp_path / text).write_text("own words")
    result = look(tmp_path)
    assert sorted(reasons(result)) == ["a.jpg", "a.png"]
    assert reasons(result)["a.png"] == "a.txt would caption a.jpg and a.png; rename one of them"
    origins = {name: e.caption_from for name, e in by_name(result).items()}
    assert origins == {"b.png": "recipe", "b.jpg": "recipe", "Dog.PNG": "txt", "cat.png": "txt", "Cat.png": "recipe"}


def test_two_caption_files_of_one_picture(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.TXT").write_text("y")
    if len(list(tmp_path.glob("a.[tT]*"))) < 2:
        pytest.skip("this disk does not tell a.txt from a.TXT")
    assert "two caption files" in reasons(look(tmp_path))["a.png"]


def test_rows_that_are_not_used_are_refused_with_their_line(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "x"}\n{"file_name": "gone.png", "text": "x"}\n{oops\n{"file_name": "../a.png"}\n'
        '{"file_name": "a.png", "text": "y"}\n'
    )
    result = look(tmp_path)
    assert result.examples["images"][0].captions == ("x",)
    refused = reasons(result)
    assert list(refused) == [f"metadata.jsonl:{line}" for line in (2, 3, 4, 5)]
    assert "gone.png is not among the pictures" in refused["metadata.jsonl:2"]


def test_metadata_in_a_folder_inside_names_its_own_pictures(tmp_path):
    fill(tmp_path, "a.png", "sub/a.png")
    (tmp_path / "sub/metadata.csv").write_text("file_name,prompt\na.png,inner\n")
    result = look(tmp_path, caption_column="prompt")
    assert {e.name[-9:]: e.captions for e in result.examples["images"]}["sub/a.png"] == ("inner",)
    assert len({e.caption_from for e in result.examples["images"]}) == 2
    assert noted(look(tmp_path), "no row has the key 'text'", "'file_name', 'prompt'")
    (tmp_path / "sub/metadata.jsonl").write_text("")
    with pytest.raises(DataError, match="are both there"):
        look(tmp_path)


def test_everything_left_out_is_named(tmp_path):
    fill(tmp_path, "a.png")
    for name in ("notes.md", "a.npz", ".DS_Store", "._a.png", "Thumbs.db", "lonely.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "raw.DNG").write_bytes(b"II*\0")
    (tmp_path / "clip.mov").write_bytes(b"x")
    (tmp_path / "fake.png").write_text("a photo")
    result = look(tmp_path)
    assert names(result) == ["a.png"]
    assert noted(result, "2 files left out", "a.npz, notes.md")
    assert noted(result, "4 hidden files", "._a.png", ".DS_Store", ".git", "Thumbs.db")
    assert noted(result, "1 .txt file without a picture", "lonely.txt")
    assert {name: reason.split(";")[0] for name, reason in reasons(result).items()} == {
        "raw.DNG": "raw photos are not read", "clip.mov": "videos are not read", "fake.png": "text, not a picture"
    }  # fmt: skip


def test_the_content_decides_what_a_picture_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(kind="PNG"))
    assert names(look(tmp_path)) == ["a.jpg"]


def test_truncated_pictures_are_found_where_they_are_decoded(tmp_path):
    fill(tmp_path, "good.png")
    (tmp_path / "bad.png").write_bytes(picture(1)[:-500])
    assert len(look(tmp_path, decode=False).examples["images"]) == 2
    result = look(tmp_path, decode=True)
    assert names(result) == ["good.png"]
    assert "broken PNG" in reasons(result)["bad.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs links, pipes and permissions")
def test_nothing_is_followed_out_of_the_folder_and_no_pipe_is_opened(tmp_path):
    fill(tmp_path, "in/a.png", "out/secret.png", "in/sub/b.png")
    inside = tmp_path / "in"
    (inside / "link_in.png").symlink_to(inside / "a.png")
    (inside / "link_out.png").symlink_to(tmp_path / "out/secret.png")
    (inside / "link_gone.png").symlink_to("nowhere.png")
    (inside / "link_dir").symlink_to(tmp_path / "out")
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe.png")
    (inside / "link_dev.png").symlink_to("/dev/zero")
    result = look(inside)
    assert sorted(names(result)) == ["a.png", "b.png", "link_in.png"]
    found = reasons(result)
    assert "leads out of the folder" in found["link_out.png"]
    assert "cannot be read" in found["link_gone.png"]
    assert "link to a folder" in found["link_dir"]
    assert "link to a folder" in found["loop"]
    assert "pipe" in found["pipe.png"]
    assert "link_dev.png" in found
    (tmp_path / "elsewhere").symlink_to(inside)
    assert len(look(tmp_path / "elsewhere").examples["images"]) == 3
    with pytest.raises(DataError, match="is a file"):
        look("/dev/zero")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions do not bind here")
def test_files_that_may_not_be_read_are_refused(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "b.png").chmod(0)
    assert "Permission denied" in reasons(look(tmp_path))["b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text_or_hold_control_characters_are_shown_escaped(tmp_path):
    for name in (b"caf\xe9.png", b"red\x1b[31m.png", "\u202egnp.png".encode()):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(picture())
    result = look(tmp_path)
    assert sorted(names(result)) == ["\\u202egnp.png", "caf\\udce9.png", "red\\x1b[31m.png"]
    assert all(example.name.isprintable() for example in result.examples["images"])
    "".join([*names(result), *result.notes]).encode("utf-8")


def test_one_picture_is_a_source_too(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("own words")
    result = look(tmp_path / "a.png")
    assert [(e.name, e.captions) for e in result.examples["images"]] == [(str(tmp_path / "a.png"), ("own words",))]


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("photoz", "there is no photoz", "did you mean"),
        ("photos/subb/x", "there is no photos/subb/x", "sub?"),
        ("zzzz", "there is no zzzz", "working directory"),
        ("", "the path is empty", "name the folder"),
        ("empty", "is empty", "put pictures there"),
        ("words", "has no pictures", "put pictures there"),
        ("zip.zip", "is a file", "unpack it"),
        ("t.parquet", "is a file", "data.images.dataset"),
    ],
)
def test_a_path_that_leads_nowhere(tmp_path, monkeypatch, path, message, hint):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "photos/sub/a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words/a.txt").write_text("x")
    (tmp_path / "zip.zip").write_bytes(b"PK")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError) as caught:
        look(path)
    assert "data.images.path" in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_path_with_a_nul_inside():
    with pytest.raises(DataError, match=r"there is no a\\x00b"):
        folder.locate("a\0b", "data.images.path")


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody-of-this-name/x"])
def test_a_path_that_no_recipe_lets_through(path):
    """`recipe.Place` refuses them first; a path from elsewhere still gets a sentence."""
    with pytest.raises(DataError, match="cannot be looked up"):
        folder.locate(path, "data.images.path")


def test_relative_paths_and_home(tmp_path, monkeypatch):
    fill(tmp_path, "photos/a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert look("photos/").examples["images"][0].name == "photos/a.png"
    assert look("~/photos").examples["images"][0].name == "~/photos/a.png"
    reader = look("photos").examples["images"][0].read
    assert reader()


def test_a_role_with_nothing_left_lists_every_file_and_every_role(tmp_path):
    for name in ("dog/a.png", "dog/b.jpg", "class/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"junk")
    given = recipe(
        instance={"path": str(tmp_path / "dog"), "caption": "x"},
        prior={"path": str(tmp_path / "class"), "caption": "a dog"},
    )
    with pytest.raises(DataError) as caught:
        scan(given, decode=False, watcher=Watcher())
    lines = caught.value.message.splitlines()
    for word, line in zip(("data.instance:", "a.png: ", "b.jpg: ", "data.prior:", "c.png"), lines, strict=True):
        assert word in line


def test_mirrors_and_generated_pictures_need_none(tmp_path):
    fill(tmp_path, "dog/a.png", "own/b.png")
    (tmp_path / "empty").mkdir()
    instance = {"path": str(tmp_path / "dog"), "caption": "x"}
    mirrored = scan(
        recipe(instance=instance, prior={"predict": True, "caption": "a dog"}), decode=False, watcher=Watcher()
    )
    assert list(mirrored.examples) == ["instance"]
    drawn = scan(recipe(instance=instance, prior={"generate": 5, "caption": "a dog"}), decode=False, watcher=Watcher())
    assert drawn.examples["prior"] == []
    filled = {"generate": 5, "caption": "a dog", "path": str(tmp_path / "own")}
    assert len(scan(recipe(instance=instance, prior=filled), decode=False, watcher=Watcher()).examples["prior"]) == 1


def test_several_concepts_keep_their_order_captions_and_weights(tmp_path):
    fill(tmp_path, "dog/1.png", "dog/2.png", "cat/1.png", start=0)
    given = recipe(
        images=[
            {"path": str(tmp_path / "dog"), "caption": "a dog", "repeats": 2},
            {"path": str(tmp_path / "cat"), "caption": "a cat", "weight": 0.5},
        ]
    )
    result = scan(given, decode=False, watcher=Watcher())
    assert [(e.captions[0], e.repeats, e.weight) for e in result.examples["images"]] == [
        ("a dog", 2, 1), ("a dog", 2, 1), ("a cat", 1, 0.5)
    ]  # fmt: skip
    assert noted(result, "data.images.0: 2 pictures")
    assert noted(result, "data.images.1: 1 picture;")


def test_small_long_and_lopsided_pictures_are_noted(tmp_path):
    (tmp_path / "small.png").write_bytes(picture(0, (20, 20)))
    (tmp_path / "long.png").write_bytes(picture(1, (700, 100)))
    (tmp_path / "left.png").write_bytes(picture(2))
    (tmp_path / "left.txt").write_text("a dog on the Left")
    result = look(tmp_path, options={"flip": True})
    assert noted(result, "enlarged more than 2 times", "small.png (20x20)")
    assert not noted(result, "enlarged", "left.png")
    assert noted(result, "the crop leaves less than 60%", "long.png (700x100)")
    assert noted(result, "mirrored", "left.png")
    assert not noted(look(tmp_path), "mirrored")


def test_colour_notes_reach_the_result(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        Image.new("CMYK", (64, 64)).save(tmp_path / name)
    assert noted(look(tmp_path), "CMYK without a colour profile", "a.jpg", "b.jpg")


def test_every_file_of_a_mess_is_accounted_for(tmp_path):
    """The law: each file is an example, refused, a used caption, or named in a note."""
    fill(tmp_path, *(f"{i}.png" for i in range(8)))
    for i, junk in enumerate((b"", b"text", picture()[:60], b"GIF89a", b"\xff\xd8\xff")):
        (tmp_path / f"junk{i}.jpg").write_bytes(junk)
    (tmp_path / "x.bin").write_bytes(b"")
    (tmp_path / "3.txt").write_text("three")
    (tmp_path / "stray.txt").write_text("nobody's")
    result = look(tmp_path, decode=True)
    said = " ".join(result.notes)
    accounted = {*names(result), *reasons(result), "3.txt"}
    for file in os.listdir(tmp_path):
        assert file in accounted or file in said, file
    assert result.examples["images"][3].captions == ("three",)
    assert all(isinstance(item, Refused) for item in result.refused)


def test_watchers_see_the_progress_and_many_files_are_quick(tmp_path):
    data = picture(0, (32, 32))
    for i in range(500):
        (tmp_path / f"{i}.png").write_bytes(data + i.to_bytes(2, "big"))
    seen = []

    class Sees(Watcher):
        def phase(self, name, total=None, done=0):
            seen.append((name, total))

        def progress(self, done):
            seen.append(done)

    result = scan(recipe(images={"path": str(tmp_path), "caption": "x"}), decode=False, watcher=Sees())
    assert len(result.examples["images"]) == 500
    assert seen[0] == ("looking at data.images", 500)
    assert seen[1:] == list(range(1, 501))


def test_each_file_is_read_once(tmp_path, monkeypatch):
    fill(tmp_path, "a.png", "b.png")
    reads, real = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self.name) or real(self))
    look(tmp_path, decode=True)
    assert sorted(reads) == ["a.png", "b.png"]


def test_scanning_imports_no_torch(tmp_path):
    fill(tmp_path, "a.png")
    code = (
        "import sys\nfrom pathlib import Path\nfrom tuner.data.scan import scan_folder\nfrom tuner.data.sources import Source\n"
        "from tuner.sections import DataOptions\nfrom tuner.watch import Watcher\n"
        f"s = scan_folder(Path({str(tmp_path)!r}), Source(path='x', caption='a'), 'images', DataOptions(), watcher=Watcher())\n"
        "assert len(s.examples['images']) == 1\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'datasets'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no folder of real photos")
def test_real_photos_are_all_usable():
    result = look(PHOTOS / "dog6", decode=True, caption="a photo of sks dog")
    assert len(result.examples["images"]) == len(list((PHOTOS / "dog6").glob("*.jpg"))) > 3
    assert result.refused == []
