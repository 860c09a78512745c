"""Pairs of pictures: folders, tables and datasets; and every pair that cannot be used named with the reason."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tuner.data.scan import scan
from tuner.data.sources import PairSource
from tuner.errors import DataError
from tuner.recipe import Recipe
from tuner.watch import Watcher


def picture(seed=0, size=(64, 48)):
    out = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


def put(root, **files):
    """Files by path, with __ for /; a number is a picture of that seed."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        if "." not in path.name:
            path = path.with_name(path.name + (".txt" if isinstance(content, str) else ".png"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(content) if isinstance(content, int) else content.encode())
    return root


def recipe(pairs, **changes):
    tree = {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": ["lora"],
        "task": "dpo",
        "data": {"resolution": 64, "bucket_step": 8, "pairs": pairs},
        "train": {"steps": 1},
    }
    return Recipe.model_validate(tree | changes)


def look(path, *, decode=True, **source):
    source.setdefault("caption", "a thing")
    return scan(recipe({"path": str(path), **source}), decode=decode, watcher=Watcher())


def pairs(found):
    """(chosen, rejected, captions) of each pair, by file name."""
    chosen, rejected = found.examples["chosen"], found.examples["rejected"]
    assert [e.uid for e in chosen] == [e.uid for e in rejected]
    assert [e.captions for e in chosen] == [e.captions for e in rejected]
    assert {e.role for e in chosen} <= {"chosen"}
    assert {e.role for e in rejected} <= {"rejected"}
    return [
        (one.name.rsplit("/", 1)[-1], other.name.rsplit("/", 1)[-1], one.captions)
        for one, other in zip(chosen, rejected, strict=True)
    ]


def reasons(found):
    return {refused.name.split("/", 1)[-1]: refused.reason for refused in found.refused}


def noted(found, words):
    return [note for note in found.notes if words in note]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_pairs_by_name_whatever_the_ending(here):
    put(here / "p", chosen__2=1, chosen__10=2, chosen__in__a=3, rejected__10=5, rejected__in__a=6)
    (here / "p/rejected/2.webp").write_bytes(picture(4))
    found = look("p")
    expected = [("2.png", "2.webp"), ("10.png", "10.png"), ("a.png", "a.png")]
    assert pairs(found) == [(*names, ("a thing",)) for names in expected]
    assert not found.refused
    assert noted(found, "data.pairs: 3 pairs; captions: 3 from data.pairs.caption")


def test_the_caption_of_a_pair_lies_beside_either_picture(here):
    put(here / "p", chosen__a=1, rejected__a=2, chosen__b=3, rejected__b=4, chosen__c=5, rejected__c=6, chosen__d=7)
    put(here / "p", rejected__d=8)
    (here / "p/chosen/a.txt").write_text("of the chosen")
    (here / "p/rejected/b.txt").write_text("of the other")
    for side in ("chosen", "rejected"):
        (here / f"p/{side}/c.txt").write_text("the same twice")
    found = look("p")
    assert [captions[0] for *_, captions in pairs(found)] == [
        "of the chosen",
        "of the other",
        "the same twice",
        "a thing",
    ]


def test_faults_of_a_folder_are_named_file_by_file(here):
    put(here / "p", chosen__alone=1, rejected__other=2, chosen__good=3, rejected__good=4, chosen__same=5)
    put(here / "p", rejected__same=5, chosen__twins=6, rejected__twins=7, chosen__cut=8, rejected__cut=9)
    put(here / "p", chosen__said=10, rejected__said=11, rejected__heic=12)
    (here / "p/chosen/twins.webp").write_bytes(picture(16))
    (here / "p/rejected/cut.png").write_bytes(picture(9)[:-400])
    (here / "p/chosen/said.txt").write_text("one thing")
    (here / "p/rejected/said.txt").write_text("another thing")
    (here / "p/chosen/heic.psd").write_bytes(b"8BPS")
    (here / "p/stray.png").write_bytes(picture(13))
    found = look("p")
    assert [pair[0] for pair in pairs(found)] == ["good.png"]
    said = reasons(found)
    assert said["chosen/alone.png"] == "no partner: there is no rejected/alone.*"
    assert said["rejected/other.png"] == "no partner: there is no chosen/other.*"
    assert "p/chosen/same.png and p/rejected/same.png are the same picture" in said["*/same"]
    assert "twins.png, twins.webp have one name" in said["chosen/twins.png"]
    assert said["rejected/twins.png"] == "no partner: there is no chosen/twins.*"
    assert said["chosen/cut.png"] == "its partner p/rejected/cut.png cannot be used"
    assert "broken PNG" in said["rejected/cut.png"]
    assert "different captions, 'one thing' and 'another thing'" in said["*/said"]
    assert said["rejected/heic.png"] == "its partner p/chosen/heic.psd cannot be used"
    assert noted(found, "left out: stray.png")
    everyone = {p.relative_to(here / "p").as_posix() for p in (here / "p").rglob("*.*") if p.suffix != ".txt"}
    named = {name for name in everyone if any(name.rsplit(".", 1)[0].split("/")[-1] in key for key in said)}
    assert everyone - named == {"chosen/good.png", "rejected/good.png", "stray.png"}


def test_a_table_pairs_by_row(here):
    put(here, pics__a=1, pics__b=2, pics__c=3)
    rows = [
        {"chosen": "pics/a.png", "rejected": "pics/b.png", "caption": "a cat"},
        {"chosen": "pics/a.png", "rejected": "pics/c.png", "caption": ["a cat", "one cat"]},
        {"chosen": "pics/b.png", "rejected": "pics/c.png"},
    ]
    (here / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = look("pairs.jsonl")
    assert pairs(found) == [
        ("a.png", "b.png", ("a cat",)),
        ("a.png", "c.png", ("a cat", "one cat")),
        ("b.png", "c.png", ("a thing",)),
    ]
    assert len({e.uid for e in found.examples["chosen"]}) == 3


def test_labels_turn_pairs_round_and_ties_are_left_out(here):
    put(here, a=1, b=2)
    row = {"jpg_0": "a.png", "jpg_1": "b.png", "caption": "a cat"}
    labels = [1, 0, 0.5, None, 0.7, "1", True]
    (here / "t.jsonl").write_text("\n".join(json.dumps(row | {"label_0": label}) for label in labels))
    found = look("t.jsonl", chosen_column="jpg_0", rejected_column="jpg_1", label_column="label_0")
    assert [pair[:2] for pair in pairs(found)] == [("a.png", "b.png"), ("b.png", "a.png"), ("a.png", "b.png")]
    assert [e.captions for e in found.examples["chosen"]] == [("a cat",)] * 3
    assert {name for name, reason in reasons(found).items() if "must be 1" in reason} == {
        "t.jsonl:4",
        "t.jsonl:5",
        "t.jsonl:6",
    }
    assert noted(found, "ties, which teach nothing and are left out: line 3")
    assert noted(found, "there more than once, each counted: t.jsonl:7")
    assert noted(found, "preferred the other way round in another pair")
    assert len({e.uid for e in found.examples["chosen"]}) == 3


def test_faults_of_a_table_are_named_by_line(here):
    put(here / "in", a=1, b=2)
    put(here, outside=3)
    (here / "in/link.png").symlink_to(here / "outside.png")
    lines = [
        '{"chosen": "a.png", "rejected": "b.png"}',
        "{not json",
        '{"chosen": "a.png"}',
        '{"chosen": "../outside.png", "rejected": "b.png"}',
        '{"chosen": "/etc/passwd", "rejected": "b.png"}',
        '{"chosen": "a.png", "rejected": "gone.png"}',
        '{"chosen": "a.png", "rejected": "a.png"}',
        '{"chosen": "a.png", "rejected": "b.png", "caption": 3}',
        '{"chosen": "link.png", "rejected": "b.png"}',
        '["a.png", "b.png"]',
    ]
    (here / "in/t.jsonl").write_text("\n".join(lines))
    found = look("in/t.jsonl")
    assert [pair[:2] for pair in pairs(found)] == [("a.png", "b.png")]
    said = reasons(found)
    assert {int(name.rsplit(":", 1)[1]) for name in said if ":" in name} == {2, 3, 4, 5, 7, 8, 9, 10}
    assert "no rejected; there is 'chosen'" in said["t.jsonl:3"]
    assert "leads out of the folder" in said["t.jsonl:4"]
    assert "a link that leads out" in said["t.jsonl:9"]
    assert "cannot be read" in said["gone.png"]
    assert "are the same picture" in said["t.jsonl:7"]
    assert "it must be text" in said["t.jsonl:8"]
    assert said["a.png"] == "its partner gone.png cannot be used"


def test_a_dataset_pairs_by_row(here):
    datasets = pytest.importorskip("datasets")
    columns = {
        "jpg_0": [picture(i) for i in range(4)],
        "jpg_1": [picture(10 + i) for i in range(4)],
        "label_0": [1.0, 0.0, 0.5, None],
        "caption": ["one", "two", "three", "four"],
    }
    datasets.Dataset.from_dict(columns).to_parquet("t.parquet")
    source = {"chosen_column": "jpg_0", "rejected_column": "jpg_1", "label_column": "label_0"}
    found = scan(recipe({"dataset": "t.parquet", **source}), decode=True, watcher=Watcher())
    assert [(e.name.split()[-1], e.captions[0]) for e in found.examples["chosen"]] == [
        ("jpg_0", "one"),
        ("jpg_1", "two"),
    ]
    assert found.examples["chosen"][1].read() == picture(11)
    assert found.examples["rejected"][1].read() == picture(1)
    assert noted(found, "are left out: row 2")
    assert "the label is None" in reasons(found)["t.parquet[train] row 3"]
    with pytest.raises(DataError, match="no column 'chosen'"):
        scan(recipe({"dataset": "t.parquet"}), decode=True, watcher=Watcher())


def test_sizes_that_differ_are_named_and_meet_in_the_chosen_ones_bucket(here):
    put(here / "p", chosen__a=1, rejected__a=2)
    (here / "p/rejected/a.png").write_bytes(picture(2, (40, 120)))
    found = look("p")
    assert noted(found, "scaled and cut to the chosen one's bucket: p/*/a (64x48 and 40x120)")
    assert noted(found, "the crop leaves less than 60%: p/rejected/a.png")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ({"chosen__a": 1}, "has no folder rejected/"),
        ({"a": 1}, "has no folder chosen/"),
        ({"chosen__a": 1, "rejected__b": 2}, "no pair can be used"),
        ({"chosen__a": 1, "rejected__a": 1}, "the same picture"),
    ],
    ids=["one side", "no side", "no partner", "equal"],
)
def test_a_place_without_pairs_is_refused(here, make, words):
    put(here / "p", **make)
    with pytest.raises(DataError, match=words):
        look("p")


def test_a_folder_with_a_table_is_told_so(here):
    put(here / "p", a=1)
    (here / "p/mine.jsonl").write_text("")
    with pytest.raises(DataError) as caught:
        look("p")
    assert caught.value.hint == "a table of pairs is named itself: data.pairs.path=p/mine.jsonl"
    with pytest.raises(DataError, match="neither a folder nor a .jsonl file of pairs"):
        look("p/a.png")
    with pytest.raises(DataError, match="no pair can be used"):
        look("p/mine.jsonl")


def test_pairs_without_a_caption_are_refused_by_name(here):
    put(here / "p", chosen__a=1, rejected__a=2)
    with pytest.raises(DataError, match=r"1 picture without a caption: p/chosen/a.png"):
        look("p", caption=None)


def test_a_pair_is_the_same_wherever_it_lies(here):
    put(here / "p", chosen__a=1, rejected__a=2, chosen__b=3, rejected__b=4)
    put(here / "q", chosen__z=1, rejected__z=2)
    put(here / "r", chosen__z=2, rejected__z=1)
    uids = [[e.uid for e in look(place).examples["chosen"]] for place in ("p", "q", "r")]
    assert uids[1][0] == uids[0][0]
    assert uids[2][0] not in uids[0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"path": "p", "chosen_column": "a"}, "has no effect without a dataset or a .jsonl file"),
        ({"path": "p", "label_column": "a"}, "has no effect without a dataset or a .jsonl file"),
        ({"dataset": "p", "image_column": "a"}, "has no effect on pairs, which have chosen_column"),
        ({"path": "p", "captions": [{"ending": ".txt"}]}, "on pairs, which have one caption each"),
        ({"caption": "a"}, "say where the pictures are"),
    ],
    ids=["column", "label", "image_column", "captions", "nowhere"],
)
def test_keys_without_effect_are_refused(source, words):
    with pytest.raises(ValidationError) as caught:
        PairSource(**source)
    assert words in str(caught.value)


def test_a_preference_is_not_measured_on_held_out_pictures():
    with pytest.raises(ValidationError) as caught:
        recipe({"path": "p"}, validation={"every": 5, "hold_out": 0.2})
    assert "task dpo has none: a preference makes neither picture" in str(caught.value)
