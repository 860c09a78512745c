"""Drafts outlive the page and the server, and their ids are no paths."""

from __future__ import annotations

import os
import threading

import pytest
from form_parts import PAYLOADS

from tuner.errors import StorageError, UsageError
from webui.forms import drafts as module
from webui.forms.basics import Basics
from webui.forms.drafts import Drafts, ago
from webui.workspace import UnknownId, Workspace


@pytest.fixture
def drafts(tmp_path):
    return Drafts(Workspace.open(tmp_path / "workspace"))


def test_what_is_saved_is_there_for_the_next_server(drafts):
    basics = Basics("lora", True, "id", "ohwx", "owl", "quick", "My owl")
    id = drafts.save("a: [1, # not sound\n", basics)
    again = Drafts(Workspace.open(drafts.workspace.root)).get(id)
    assert (again.text, again.basics, again.title) == ("a: [1, # not sound\n", basics, "My owl")
    assert drafts.save("b: 2\r\n", Basics(), id) == id
    assert drafts.get(id).text == "b: 2\r\n"
    assert drafts.get(id).title == "without a name"


def test_drafts_are_listed_last_first(drafts):
    ids = [drafts.save(f"n: {n}", Basics(name=str(n))) for n in range(3)]
    for number, id in enumerate(ids):
        os.utime(drafts.workspace.drafts / f"{id}.yaml", (number, number))
    assert [draft.id for draft in drafts.listed()] == ids[::-1]
    drafts.delete(ids[1])
    assert [draft.id for draft in drafts.listed()] == [ids[2], ids[0]]
    assert not list(drafts.workspace.drafts.glob(f"{ids[1]}*"))


@pytest.mark.parametrize(
    "id", ["", ".", "..", "../runs/x", "a" * 16, "0" * 15, "0" * 16 + "/", "%2e%2e", "\0", "*" * 16]
)
def test_an_id_that_is_not_listed_is_unknown(id, drafts):
    drafts.save("a: 1", Basics())
    (drafts.workspace.root / "secret.yaml").write_text("x", "utf-8")
    for action in (drafts.get, drafts.delete):
        with pytest.raises(UnknownId):
            action(id)
    if id:
        with pytest.raises(UnknownId):
            drafts.save("a: 2", Basics(), id)
    assert len(drafts.listed()) == 1


def test_what_lies_about_is_no_draft(drafts):
    folder = drafts.workspace.drafts
    (folder / "notes.yaml").write_text("x", "utf-8")
    (folder / ("a" * 16 + ".json")).write_text("{}", "utf-8")
    (folder / ("b" * 16 + ".yaml")).mkdir()
    (folder / ("c" * 16 + ".yaml")).symlink_to("/etc/passwd")
    (folder / ".tmp-x.yaml-1-00000000").write_text("x", "utf-8")
    assert drafts.listed() == []


@pytest.mark.parametrize("json", ["", "{", "[]", '{"trigger": 5}', "[" * 100000, "\x00"], ids=len)
def test_broken_answers_lose_no_text(json, drafts):
    id = drafts.save("a: 1", Basics("lora"))
    (drafts.workspace.drafts / f"{id}.json").write_text(json, "utf-8")
    assert drafts.get(id).text == "a: 1"
    assert drafts.get(id).basics == Basics()
    (drafts.workspace.drafts / f"{id}.json").unlink()
    assert drafts.listed()[0].basics == Basics()


def test_payloads_come_back_as_they_went(drafts):
    for payload in PAYLOADS[::5]:
        id = drafts.save(payload, Basics(trigger=payload, name=payload))
        assert drafts.get(id).text == payload
        assert drafts.get(id).title == payload.strip()


def test_there_is_a_limit(drafts, monkeypatch):
    with pytest.raises(UsageError, match="256 KB"):
        drafts.save("x" * (256 * 1024 + 1), Basics())
    monkeypatch.setattr(module, "MOST", 2)
    ids = [drafts.save("a: 1", Basics()) for _ in range(2)]
    with pytest.raises(UsageError, match="delete some"):
        drafts.save("a: 1", Basics())
    drafts.save("a: 2", Basics(), ids[0])


def test_a_reader_never_sees_half_a_draft(drafts):
    """Two tabs save one draft while a third reads it."""
    texts = {letter: letter * 50000 for letter in "ab"}
    id = drafts.save(texts["a"], Basics())
    writers = [
        threading.Thread(target=lambda text=text: [drafts.save(text, Basics(), id) for _ in range(15)])
        for text in texts.values()
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert drafts.get(id).text in texts.values()
    for writer in writers:
        writer.join()
    assert len(drafts.listed()) == 1


def test_a_full_disk_keeps_the_old_draft(drafts, monkeypatch):
    id = drafts.save("a: 1", Basics())

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError):
        drafts.save("a: 2", Basics(), id)
    monkeypatch.undo()
    assert drafts.get(id).text == "a: 1"


def test_ago_is_in_words():
    assert [ago(0, now) for now in (5, 65, 7300, 90000, 200000, -5)] == [
        "just now",
        "1 minute ago",
        "2 hours ago",
        "1 day ago",
        "2 days ago",
        "just now",
    ]
