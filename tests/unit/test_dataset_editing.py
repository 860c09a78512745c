"""Captions in bulk: told beforehand, taken back afterwards, also by another process; and pictures that come back."""

from __future__ import annotations

import json

import pytest
from dropped import encoded, sound

from tuner.dataset import Dataset, editing, history, intake
from tuner.dataset.editing import Prefix, Replace, Suffix, Trigger, Whole
from tuner.dataset.words import words
from tuner.errors import DataError, UsageError


@pytest.fixture
def dataset(tmp_path):
    made = Dataset.new(tmp_path / "d", "d")
    for number, text in enumerate(["a dog", "a Dog, tok", ""]):
        intake(made, f"{number}.png", encoded(number))
        intake(made, f"{number}.txt", text.encode())
    return made


def texts(dataset):
    return list(dataset.captions().values())


EDITS = {
    "prefix": (Prefix("photo of"), ["photo of a dog", "photo of a Dog, tok", "photo of"]),
    "suffix": (Suffix("outside"), ["a dog outside", "a Dog, tok outside", "outside"]),
    "comma": (Suffix(", outside"), ["a dog, outside", "a Dog, tok, outside", ", outside"]),
    "replace": (Replace("dog", "cat"), ["a cat", "a Dog, tok", ""]),
    "any case": (Replace("DOG", r"\1.*", any_case=True), [r"a \1.*", r"a \1.*, tok", ""]),
    "plain": (Replace(".", "!"), ["a dog", "a Dog, tok", ""]),
    "take out": (Replace("a ", ""), ["dog", "Dog, tok", ""]),
    "trigger": (Trigger("tok"), ["tok, a dog", "a Dog, tok", "tok"]),
    "whole": (Whole("x\ny"), ["x y", "x y", "x y"]),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_told_done_and_taken_back(dataset, name):
    edit, after = EDITS[name]
    before = texts(dataset)
    told = editing.preview(dataset, edit)
    assert texts(dataset) == before
    done = editing.apply(dataset, edit)
    assert done == told
    assert texts(dataset) == after
    assert done.changed == sum(one != other for one, other in zip(before, after, strict=True))
    assert done.pictures == 3
    back = editing.undo(Dataset.open(dataset.path))  # as after a restart
    assert back.captions == done.changed
    assert texts(dataset) == before
    again = editing.redo(Dataset.open(dataset.path))
    assert again.captions == done.changed
    assert texts(dataset) == after
    sound(dataset)


def test_edits_are_taken_back_in_turn(dataset):
    states = [texts(dataset)]
    for edit in (Prefix("one"), Suffix("two"), Replace("o", "0")):
        editing.apply(dataset, edit)
        states.append(texts(dataset))
    assert editing.next_words(dataset)[0].startswith("replace 'o' by '0'")
    for state in states[-2::-1]:
        editing.undo(dataset)
        assert texts(dataset) == state
    assert editing.undo(dataset) == editing.TakenBack("")
    for state in states[1:]:
        editing.redo(dataset)
        assert texts(dataset) == state
    assert editing.redo(dataset) == editing.TakenBack("")
    editing.undo(dataset)
    editing.apply(dataset, Prefix("another"))
    assert editing.next_words(dataset)[1] == ""  # nothing to do again after something else was done


def test_only_the_chosen_pictures(dataset):
    first = next(iter(dataset.captions()))
    assert editing.apply(dataset, Whole("mine"), [first]).changed == 1
    assert texts(dataset) == ["mine", "a Dog, tok", ""]
    with pytest.raises(UsageError, match="no picture"):
        editing.apply(dataset, Whole("x"), [first, "../../etc/passwd"])
    with pytest.raises(UsageError):
        editing.remove(dataset, ["0" * 16])


def test_an_edit_is_made_of_all_captions_or_of_none(dataset):
    first = next(iter(dataset.captions()))
    editing.apply(dataset, Whole("x" * 4000), [first])
    before = texts(dataset)
    with pytest.raises(DataError, match=r"0.png: a caption of"):
        editing.apply(dataset, Prefix("y" * 200))
    assert texts(dataset) == before
    assert editing.next_words(dataset)[0].startswith("write")
    for bad in (lambda: Replace("", "x"), lambda: Trigger("  ")):
        with pytest.raises(UsageError):
            bad()


def test_nothing_changed_is_nothing_to_take_back(dataset):
    assert editing.apply(dataset, Replace("zebra", "x")).changed == 0
    assert editing.next_words(dataset) == ("", "")


def test_what_was_changed_by_hand_is_left_alone(dataset):
    editing.apply(dataset, Prefix("photo of"))
    table = dataset.images / "metadata.jsonl"
    table.write_text(table.read_text().replace("photo of a dog", "by hand"))
    back = editing.undo(dataset)
    assert back.captions == 2
    assert back.left == ("0.png",)
    assert texts(dataset) == ["by hand", "a Dog, tok", ""]


def test_removed_pictures_come_back_where_they_were(dataset):
    before, captions = sound(dataset)
    ids = list(captions)
    assert editing.remove(dataset, [ids[0], ids[2]]).pictures == 2
    contents, _ = sound(dataset)
    assert [picture.id for picture in contents.pictures] == [ids[1]]
    editing.undo(Dataset.open(dataset.path))
    assert sound(dataset) == (before, captions)
    editing.redo(dataset)
    assert list(sound(dataset)[1]) == [ids[1]]
    editing.undo(dataset)
    assert sound(dataset) == (before, captions)


def test_a_removed_picture_may_be_dropped_again(dataset):
    editing.remove(dataset, list(dataset.captions())[:1])
    assert intake(dataset, "0.png", encoded(0))[0].accepted
    editing.undo(dataset)
    assert len(sound(dataset)[0].pictures) == 4


def test_what_is_forgotten_is_gone_from_the_disk(dataset, monkeypatch):
    editing.remove(dataset, list(dataset.captions())[:1])
    assert len(list(dataset.removed.iterdir())) == 2
    editing.forget(dataset)
    assert not list(dataset.removed.iterdir())
    monkeypatch.setattr(history, "MAX_STEPS", 2)
    editing.remove(dataset, list(dataset.captions())[:1])
    for number in range(2):
        editing.apply(dataset, Whole(str(number)))
    assert not list(dataset.removed.iterdir())
    assert editing.undo(dataset).what
    assert editing.undo(dataset).what
    assert not editing.undo(dataset).what


def test_rows_keep_what_else_they_say(dataset):
    table = dataset.images / "metadata.jsonl"
    rows = [json.loads(line) | {"by": "hand \ud800"} for line in table.read_text().splitlines()]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    editing.apply(dataset, Prefix("photo of"))
    assert {json.loads(line)["by"] for line in table.read_text().splitlines()} == {"hand \ud800"}


def test_several_captions_of_one_picture_show_the_first(dataset):
    table = dataset.images / "metadata.jsonl"
    rows = [json.loads(line) | {"text": ["one", "two"]} for line in table.read_text().splitlines()]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert texts(dataset) == ["one"] * 3
    editing.apply(dataset, Replace("dog", "cat"))
    assert "two" in table.read_text()


def test_words_are_counted_by_picture():
    found = words(["a dog, a DOG", "the dog's bone", "", "Straße ÄRGER 12"])
    counts = {word.text: (word.pictures, word.times) for word in found}
    assert counts["dog"] == (1, 2)
    assert counts["a"] == (1, 2)
    assert counts["dog's"] == (1, 1)
    assert {"straße", "ärger", "12"} <= counts.keys()
    assert words([]) == []
    assert words(["b a", "b"])[0].text == "b"
