"""Whatever a file is called and whatever is in it, it ends in a verdict, inside the dataset's folder."""

from __future__ import annotations

import io
import json
import os
import tempfile
import warnings
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from dropped import encoded, sound, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.data import captions
from tuner.dataset import Dataset, Limits, editing, intake, names
from tuner.dataset.export import file_names

_PATHS = ["..", ".", "/", "\\", "C:", "~", "%2e%2e", "CON", "nul", "__MACOSX", "-rf", "x" * 300, " "]
_LETTERS = ["\0", "\u202e", "\ud800", "\n", "a", "é", "e\u0301", "'", "$(id)", "<img src=x onerror=alert(1)>"]
TRICKS = st.sampled_from([*_PATHS, *_LETTERS, ".txt", ".png", ".zip", "metadata.jsonl"])
NAMES = st.lists(TRICKS, max_size=6).map("".join) | st.text(max_size=40)
KINDS = {
    "picture": encoded(1),
    "cut": encoded(2)[:-30],
    "empty": b"",
    "words": b"a dog",
    "latin": b"caf\xe9",
    "brace": b"{",
    "zip": zipped([("a.png", encoded(3))]),
}
FILES = st.sampled_from(sorted(KINDS))


@contextmanager
def workspace():
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "inside", "deep")
        folder.mkdir(parents=True)
        yield Path(top), Dataset.new(folder / "d", "d")


def outside(top, dataset):
    return {str(path) for path in top.rglob("*") if not path.is_relative_to(dataset.path)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, FILES), max_size=4))
def test_no_name_leads_anywhere(dropped):
    with workspace() as (top, dataset):
        before = outside(top, dataset)
        for name, kind in dropped:
            verdicts = intake(dataset, name, KINDS[kind])
            assert verdicts
            for verdict in verdicts:
                assert verdict.name.isprintable()
                assert 0 < len(verdict.name) <= names.MAX_SHOWN + 30  # a table's line comes behind its name
                assert verdict.accepted != bool(verdict.reason)
                json.dumps(verdict.name + verdict.reason + "".join(verdict.notes), ensure_ascii=False).encode()
        assert outside(top, dataset) == before
        contents, _ = sound(dataset)
        for name in file_names(contents.pictures):
            assert names.parts(name) == [name]
            assert name.isprintable()
            assert not set(name) & set('<>:"|?*%$\\/')


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(NAMES.filter(len), FILES), min_size=1, max_size=5))
def test_every_file_of_a_zip_has_a_verdict(members):
    with workspace() as (top, dataset), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, on a second file of one name
        before = outside(top, dataset)
        data = zipped([(name.encode("utf-8", "ignore").decode() or "x", KINDS[kind]) for name, kind in members])
        whole, *verdicts = intake(dataset, "photos.zip", data)
        assert (whole.name, whole.kind) == ("photos.zip", "zip")
        files = [
            info.filename for info in zipfile.ZipFile(io.BytesIO(data)).infolist() if not info.filename.endswith("/")
        ]
        named = Counter(names.display(name) for name in files if names.kind(name) not in ("system", "table"))
        hidden = [name for name in files if names.kind(name) == "system"]
        if whole.reason == "holds no files":
            assert not named
        else:
            assert named <= Counter(verdict.name for verdict in verdicts)
            assert bool(hidden) == any("hidden" in note for note in whole.notes)
        assert outside(top, dataset) == before
        sound(dataset)


@settings(max_examples=40, deadline=None)
@given(
    st.binary(max_size=400),
    st.integers(0, 400),
    st.sampled_from(["a.png", "a.jpg", "a.zip", "a.txt", "metadata.jsonl"]),
)
def test_no_bytes_do_any_harm(noise, place, name):
    good = zipped([("a.png", encoded(1)), ("a.txt", b"a dog")]) if name == "a.zip" else encoded(1)
    with workspace() as (_, dataset):
        for data in (noise, good[:place] + noise + good[place + len(noise) :]):
            for verdict in intake(dataset, name, data, Limits(expanded_bytes=2**20)):
                assert verdict.accepted or verdict.reason
        sound(dataset)


@given(NAMES)
def test_a_shown_name_is_one_line_of_text(name):
    shown = names.display(name)
    assert shown.isprintable()
    assert 0 < len(shown) <= names.MAX_SHOWN
    assert names.display(shown).isprintable()
    assert "/" not in shown
    assert names.key(name) == names.key(name.upper()).casefold() or not name.isascii()


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
EDITS = st.one_of(
    TEXTS.map(editing.Prefix),
    TEXTS.map(editing.Suffix),
    TEXTS.map(editing.Whole),
    st.builds(editing.Replace, TEXTS.filter(len), TEXTS, st.booleans()),
    TEXTS.filter(str.strip).map(editing.Trigger),
)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    dataset = Dataset.new(tmp_path_factory.mktemp("laws") / "d", "d")
    for number in range(3):
        intake(dataset, f"{number}.png", encoded(number))
    return dataset


@settings(max_examples=25, deadline=None)
@given(start=st.lists(TEXTS, min_size=3, max_size=3), edits=st.lists(EDITS, max_size=4))
def test_undoing_every_edit_leads_back_and_redoing_leads_there(three, start, edits):
    editing.forget(three)
    for id, text in zip(three.captions(), start, strict=True):
        editing.apply(three, editing.Whole(text), [id])
    editing.forget(three)
    states = [three.captions()]
    for edit in edits:
        told = editing.preview(three, edit)
        done = editing.apply(three, edit)
        assert told == done
        if done.changed:
            states.append(three.captions())
        assert {**states[-1]} == three.captions()
        for text in three.captions().values():
            assert captions.clean(text, "x") == (text, ())  # what is kept is what training reads
    for state in states[-2::-1]:
        editing.undo(three)
        assert three.captions() == state
    for state in states[1:]:
        editing.redo(three)
        assert three.captions() == state
    assert os.listdir(three.incoming) == []
