"""`tuner dataset` as somebody would use it, from a new dataset to one that is gone."""

from __future__ import annotations

import json

import pytest
from dropped import encoded, zipped

from tuner.cli import call


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encoded(number, size=(64, 48)))
    (tmp_path / "photos" / "0.txt").write_text("a dog")
    (tmp_path / "photos" / "broken.png").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def tuner(capsys):
    def run(*words, code=0):
        assert call(list(words)) == code, capsys.readouterr()
        out, err = capsys.readouterr()
        return json.loads(out) if "--json" in words else out + err

    return run


def test_the_whole_way(tuner, here):
    made = tuner("dataset", "new", "my dog", "--json")
    assert made["path"].startswith(str(here / "workspace" / "datasets"))
    added = tuner("dataset", "add", "my dog", "photos", "--json")["verdicts"]
    assert sorted((one["name"], one["accepted"]) for one in added) == [
        ("0.png", True),
        ("0.txt", True),
        ("1.png", True),
        ("broken.png", False),
    ]
    assert [(one["name"], one["pictures"]) for one in tuner("dataset", "ls", "--json")] == [("my dog", 2)]
    told = tuner("dataset", "caption", "my dog", "--trigger", "tok", "--dry-run", "--json")
    assert sorted(told["after"].values()) == ["tok", "tok, a dog"]
    tuner("dataset", "caption", made["id"], "--trigger", "tok")
    shown = tuner("dataset", "show", made["path"], "--resolution", "64", "--json")
    assert sorted(one["caption"] for one in shown["pictures"]) == ["tok", "tok, a dog"]
    assert [one["name"] for one in shown["refused"]] == ["broken.png"]
    assert {one["kind"] for one in shown["advice"]} == {"few"}
    assert shown["words"][0]["text"] == "tok"
    tuner("dataset", "undo", "my dog")
    assert tuner("dataset", "redo", "my dog", "--json")["captions"] == 2
    first = shown["pictures"][0]["id"]
    assert tuner("dataset", "remove", "my dog", "--picture", first, "--json")["before"].keys() == {first}
    assert tuner("dataset", "undo", "my dog", "--json")["pictures"] == 1
    crops = tuner("dataset", "crops", "my dog", "--resolution", "64", "--crop", "center", "--json")
    assert [one["crop"]["size"] for one in crops] == [[64, 64]] * 2
    assert tuner("dataset", "export", "my dog", "--out", "dog.zip", "--json")["pictures"] == 2
    assert tuner("dataset", "rename", "my dog", "dog", "--json") == {"name": "dog"}
    assert "photos" not in tuner("dataset", "show", "dog")
    tuner("dataset", "remove", "dog", "--all")
    assert tuner("dataset", "ls", "--json") == []


def test_what_is_said_to_people(tuner, here):
    said = tuner("dataset", "new", "d", "--in", str(here / "sets"))
    path = said.splitlines()[0]
    said = tuner("dataset", "add", path, "photos")
    assert "broken.png: refused: text, not a picture" in said
    assert "2 pictures taken in, 1 file refused" in said
    assert f"data.images.path={path}/images" in said
    assert "a dog" in tuner("dataset", "show", path)
    assert "64x48" in tuner("dataset", "crops", path)
    assert "1 of 2 captions would change" in tuner(
        "dataset", "caption", path, "--find", "dog", "--replace", "cat", "--dry-run"
    )
    assert "nothing to take back" in tuner("dataset", "undo", path)
    (here / "a.zip").write_bytes(zipped([("../../a.png", encoded(7))]))
    assert "a.png: taken in as" in tuner("dataset", "add", path, "a.zip")
    assert "refused" in tuner("dataset", "add", path, "a.zip", code=65)  # the same picture again


@pytest.mark.parametrize(
    "words",
    [
        ["show", "nowhere"],
        ["new", " "],
        ["caption", "d"],
        ["caption", "d", "--prefix", "a", "--suffix", "b"],
        ["caption", "d", "--find", "a"],
        ["caption", "d", "--text", "a", "--picture", "../x"],
        ["remove", "d"],
        ["remove", "d", "--all", "--picture", "x"],
        ["crops", "d", "--resolution", "500"],
        ["add", "d", "nowhere.png"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_told_and_changes_nothing(tuner, here, words):
    tuner("dataset", "new", "d")
    said = tuner("dataset", *words, code=2)
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert tuner("dataset", "ls", "--json")[0]["pictures"] == 0


def test_two_of_one_name(tuner, here):
    ids = [tuner("dataset", "new", "d", "--json")["id"] for _ in range(2)]
    assert all(id in tuner("dataset", "show", "d", code=2) for id in ids)
    tuner("dataset", "show", ids[0])


def test_the_list_of_refused_files_can_be_emptied(tuner, here):
    tuner("dataset", "new", "d")
    tuner("dataset", "add", "d", "photos")
    assert tuner("dataset", "forget-refused", "d", "--json") == {"forgotten": 1}
    shown = tuner("dataset", "show", "d", "--json")
    assert (shown["refused"], shown["refused_before"], len(shown["pictures"])) == ([], 0, 2)
    assert "0 refused files forgotten" in tuner("dataset", "forget-refused", "d")
    tuner("dataset", "forget-refused", "nobody", code=2)
