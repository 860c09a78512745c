"""Commands reach a run in order, once; whatever else lies in the folder does no harm."""

from __future__ import annotations

import json
import os

import pytest

from tuner import control
from tuner.control import COMMANDS, Control
from tuner.errors import UsageError
from tuner.lines import read_json_lines


def journal(tmp_path):
    return list(read_json_lines(tmp_path / "journal.jsonl"))


def test_commands_are_taken_in_order_and_once(tmp_path):
    box = Control(tmp_path)
    assert box.take() == []
    asked = ["save", "sample", "stop", "stop-now", "save"]
    for command in asked:
        control.request(tmp_path, command)
    assert box.take() == asked
    assert box.take() == []
    assert [row["command"] for row in journal(tmp_path)] == asked
    assert {row["event"] for row in journal(tmp_path)} == {"command"}
    assert list((tmp_path / "control").iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_named_like_a_command_counts(tmp_path, command):
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / command).touch()
    assert Control(tmp_path).take() == [command]


def test_unknown_commands_and_places_are_refused(tmp_path):
    with pytest.raises(UsageError, match="explode"):
        control.request(tmp_path, "explode")
    with pytest.raises(UsageError, match="not a run"):
        control.request(tmp_path / "nowhere", "stop")


GARBAGE = [b"", b"{", b"\xff\xfe", b"[]", b"null", b'"stop"', b'{"command": 3}', b'{"command": ["stop"]}', b"[" * 4000]


@pytest.mark.parametrize("content", [*GARBAGE, b'{"command": "rm -rf"}', b'{"command": "stop"}' + b" " * 10_000])
def test_garbage_is_removed_and_journaled(tmp_path, content):
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "x.json").write_bytes(content)
    control.request(tmp_path, "save")
    assert Control(tmp_path).take() == ["save"]
    assert list((tmp_path / "control").iterdir()) == []
    refused = [row for row in journal(tmp_path) if row["event"] == "refused"]
    assert [row["file"] for row in refused] == ["x.json"]
    assert refused[0]["reason"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX file kinds")
def test_folders_links_and_pipes_do_not_hold_up_the_run(tmp_path):
    box = tmp_path / "control"
    (box / "folder").mkdir(parents=True)
    (box / "folder" / "x").write_text("")
    os.mkfifo(box / "pipe")
    target = tmp_path / "target"
    target.write_text(json.dumps({"command": "stop"}))
    (box / "link").symlink_to(target)
    (box / "stop").symlink_to(tmp_path)
    (box / ".tmp-half-1-0123abcd").write_text("a writer is at it")
    assert Control(tmp_path).take() == []
    assert [path.name for path in box.iterdir()] == [".tmp-half-1-0123abcd"]
    assert target.exists()
    assert len(journal(tmp_path)) == 4


def test_what_cannot_be_removed_counts_once(tmp_path, monkeypatch):
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "save").touch()
    monkeypatch.setattr(control, "_remove", lambda path: False)
    box = Control(tmp_path)
    assert box.take() == ["save"]
    assert box.take() == []


def test_commands_for_an_earlier_process_are_forgotten(tmp_path):
    control.request(tmp_path, "stop")
    box = Control(tmp_path)
    box.discard()
    assert box.take() == []
    assert [row["event"] for row in journal(tmp_path)] == ["discarded"]
