"""Files and folders appear whole or not at all, and a storage fault says what, where and what to do."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from tuner import atomic
from tuner.errors import StorageError


def test_write_replaces_whole_and_leaves_nothing_beside(tmp_path):
    for content in ("one", b"two", "drei \u00fc"):
        atomic.write(tmp_path / "deep" / "file", content)
        assert (tmp_path / "deep" / "file").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_refused_write_keeps_the_old_file(tmp_path, monkeypatch, code):
    path = tmp_path / "file"
    atomic.write(path, "old")

    def refuse(_descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError) as caught:
        atomic.write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert caught.value.exit_code == 74
    assert str(path) in caught.value.message
    assert os.strerror(code).lower() in caught.value.message
    assert "MB free" in caught.value.message
    assert caught.value.hint


def test_a_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        atomic.write(tmp_path / "file" / "below", "x")
    with pytest.raises(StorageError, match="file"), atomic.folder(tmp_path / "file" / "below"):
        pass


def test_a_folder_appears_when_its_block_ends_well(tmp_path):
    with atomic.folder(tmp_path / "f") as place:
        (place / "a").write_text("1")
        assert not (tmp_path / "f").exists()
        assert place.parent == tmp_path
    with atomic.folder(tmp_path / "f") as place:
        (place / "b").write_text("2")
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


ERRORS = [RuntimeError("x"), KeyboardInterrupt(), OSError("a library's own, without a number")]


def fill_and_fail(target, error):
    with atomic.folder(target) as place:
        (place / "b").write_text("2")
        raise error


@pytest.mark.parametrize("error", ERRORS)
def test_a_failed_block_leaves_the_old_folder_and_its_own_error(tmp_path, error):
    with atomic.folder(tmp_path / "f") as place:
        (place / "a").write_text("1")
    with pytest.raises(type(error)) as caught:
        fill_and_fail(tmp_path / "f", error)
    assert caught.value is error
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_recognised_in_safetensors_own_words(tmp_path):
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with pytest.raises(SafetensorError), atomic.storage(tmp_path):
        raise SafetensorError("a tensor is malformed")  # a fault of ours passes as it is
    with pytest.raises(StorageError, match="no space left") as caught, atomic.storage(tmp_path / "w.safetensors"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "free space" in caught.value.hint
    with pytest.raises(StorageError, match="nowhere"), atomic.storage(tmp_path / "nowhere" / "w.safetensors"):
        save_file({"w": np.zeros(2)}, tmp_path / "nowhere" / "w.safetensors")


def test_a_broken_connection_is_no_storage_fault(tmp_path):
    with pytest.raises(ConnectionResetError), atomic.storage(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_sweep_removes_leftovers_only(tmp_path):
    (tmp_path / ".tmp-x-12-0123abcd").mkdir()
    (tmp_path / ".tmp-x-12-0123abcd" / "half").write_text("")
    (tmp_path / ".tmp-file-12-0123abcd").write_text("")
    (tmp_path / ".tmp-gone.old-12-0123abcd").mkdir()  # was moved aside, its successor never came
    (tmp_path / ".tmp-here.old-12-0123abcd").mkdir()
    (tmp_path / "here").mkdir()
    for name in (".tmp", ".tmp-mine", "notes", ".tmp-a-b-c"):
        (tmp_path / name).write_text("")
    (tmp_path / "target").write_text("kept")
    (tmp_path / ".tmp-link-12-0123abcd").symlink_to(tmp_path / "target")
    removed = atomic.sweep(tmp_path)
    assert len(removed) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".tmp", ".tmp-mine", "notes", ".tmp-a-b-c", "gone", "here", "target"]
    )
    assert atomic.sweep(tmp_path / "nowhere") == []


def test_windows_readers_are_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    honest, tries = os.replace, []

    def busy(source, target):
        tries.append(source)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, "in use")
        honest(source, target)

    monkeypatch.setattr(atomic, "ON_WINDOWS", True)
    monkeypatch.setattr(os, "replace", busy)
    atomic.write(path, "new")
    assert path.read_text() == "new"
    assert len(tries) == 4
