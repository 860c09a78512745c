"""No damaged checkpoint is ever loaded: it is rejected by name, and the one before it is used."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import shutil

import pytest
import torch

from tuner import atomic, checkpoint
from tuner.errors import StorageError


def state(step):
    made = torch.Generator().manual_seed(step)
    return checkpoint.State(
        step,
        {
            "adapter.0": {f"layer.{i}": torch.randn(8, 4, generator=made) for i in range(3)},
            "optimizer": {"layer.0.exp_avg": torch.randn(8, 4, generator=made), "step": torch.tensor(float(step))},
            "ema": {},
        },
        {"scaler": {"scale": 65536.0, "good": 3}, "schema": 1},
    )


@pytest.fixture
def place(tmp_path):
    for step in (10, 20):
        checkpoint.save(tmp_path, state(step), keep=2)
        with checkpoint.add_folder(tmp_path, step, "adapter") as folder:
            (folder / "a.safetensors").write_bytes(b"x")
    return tmp_path


def expect_fallback(place, *words):
    loaded, rejected = checkpoint.newest(place)
    assert loaded is not None
    assert loaded.step == 10
    assert len(rejected) == 1
    for word in (str(place / "20"), *words):
        assert word in rejected[0]


def flips(place, count):
    """Flip `count` bits, spread over the bytes of the files of step 20 in proportion to their sizes, one at a time."""
    files = [path for path in sorted((place / "20").iterdir()) if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    pick = random.Random(7)
    for index in range(count):
        path = files[index % len(files)] if index < 3 * len(files) else pick.choices(files, sizes)[0]
        whole = path.read_bytes()
        at, bit = pick.randrange(len(whole)), pick.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
        expect_fallback(place, path.name)
        path.write_bytes(whole)
    loaded, rejected = checkpoint.newest(place)
    assert loaded is not None
    assert (loaded.step, rejected) == (20, [])


def test_100_flipped_bits_are_noticed(place):
    flips(place, 100)


@pytest.mark.slow
def test_500_flipped_bits_are_noticed(place):
    flips(place, 500)


FILES = ["adapter.0.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_noticed(place, name, share):
    path = place / "20" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    expect_fallback(place, name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(place, name):
    (place / "20" / name).unlink()
    expect_fallback(place, name, "missing")


@pytest.mark.parametrize("name", FILES)
def test_bytes_behind_the_end_are_noticed(place, name):
    with (place / "20" / name).open("ab") as file:
        file.write(b" ")
    expect_fallback(place, name)


def test_a_file_that_is_not_in_the_manifest_is_noticed(place):
    (place / "20" / "optimizer2.safetensors").write_bytes(b"")
    expect_fallback(place, "optimizer2.safetensors", "not in its manifest.json")


def test_strays_and_half_written_files_do_no_harm(place):
    for name in (".DS_Store", "._state.json", "Thumbs.db", ".nfs0001", ".tmp-adapter-12-0123abcd"):
        (place / "20" / name).write_bytes(b"x")
    (place / "20" / "notes").mkdir()
    loaded, rejected = checkpoint.newest(place)
    assert loaded is not None
    assert (loaded.step, rejected) == (20, [])


def test_files_of_another_step_are_noticed(place):
    for name in ("manifest.json", "state.json", "optimizer.safetensors"):
        shutil.copy(place / "20" / name, place / "saved")
        shutil.copy(place / "10" / name, place / "20" / name)
        expect_fallback(place)
        shutil.copy(place / "saved", place / "20" / name)


def test_a_renamed_step_is_noticed(place):
    shutil.copytree(place / "20", place / "30")
    loaded, rejected = checkpoint.newest(place)
    assert loaded is not None
    assert loaded.step == 20
    assert "manifest.json is about step 20" in rejected[0]


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m | {"schema": 2},
        lambda m: m | {"step": 21},
        lambda m: m | {"files": {}},
        lambda m: m | {"note": "x"},
        lambda m: {k: v for k, v in m.items() if k != "sha256"},
        lambda m: {},
        lambda m: [],
        lambda m: m | {"files": {name: {"sha256": "0", "bytes": 1} for name in m["files"]}},
        lambda m: m | {"files": m["files"] | {"../10/state.json": m["files"]["state.json"]}},
    ],
)
def test_an_edited_manifest_is_noticed(place, edit):
    path = place / "20" / "manifest.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    expect_fallback(place)


def test_a_manifest_that_was_made_again_for_fewer_files_is_noticed(place):
    """Even a consistent manifest must agree with state.json about which files there are."""
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in (place / "20").glob("*")
        if path.is_file() and path.name not in ("manifest.json", "optimizer.safetensors")
    }
    (place / "20" / "optimizer.safetensors").unlink()
    (place / "20" / "manifest.json").write_bytes(checkpoint._manifest(20, files))
    expect_fallback(place, "do not belong together")


def test_a_later_layout_is_named(place, monkeypatch):
    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    checkpoint.save(place, state(30), keep=9)
    monkeypatch.undo()
    loaded, rejected = checkpoint.newest(place)
    assert loaded is not None
    assert loaded.step == 20
    assert "version 2" in rejected[0]


def test_nothing_valid_gives_none_and_every_reason(place):
    for step in (10, 20):
        (place / str(step) / "state.json").unlink()
    loaded, rejected = checkpoint.newest(place)
    assert loaded is None
    assert [("20 is" in line, "10 is" in line) for line in rejected] == [(True, False), (False, True)]


def test_an_empty_place_has_no_state(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing") == (None, [])
    (tmp_path / "07").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "5").write_text("a file")
    assert checkpoint.newest(tmp_path) == (None, [])


def test_a_disk_that_lies_rotates_nothing(place, monkeypatch):
    """What is on disk must be what was in memory before an older state is let go."""
    honest = checkpoint.write_tensors

    def lying(path, tensors):
        honest(path, tensors)
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)

    monkeypatch.setattr(checkpoint, "write_tensors", lying)
    with pytest.raises(StorageError, match="reads back differently") as caught:
        checkpoint.save(place, state(30), keep=1)
    assert caught.value.exit_code == 74
    assert checkpoint.steps(place) == [10, 20]
    assert sorted(path.name for path in place.iterdir()) == ["10", "20"]


def test_a_state_set_aside_between_two_renames_is_found_and_put_back(place):
    (place / "20").rename(place / ".tmp-20.old-123-0123abcd")
    loaded, rejected = checkpoint.newest(place)
    assert loaded is not None
    assert (loaded.step, rejected) == (20, [])
    atomic.sweep(place)
    assert (place / "20" / "manifest.json").is_file()
    assert (place / "20" / "adapter").is_dir()


def test_what_is_half_removed_is_no_longer_listed(place, monkeypatch):
    """steps() does not look into the files, so the manifest goes first."""
    honest, gone = type(place).unlink, []

    def stuck(path, **options):
        if gone:
            raise OSError(errno.EIO, "Input/output error", str(path))
        gone.append(path)
        honest(path, **options)

    monkeypatch.setattr(type(place), "unlink", stuck)
    with pytest.raises(StorageError):
        checkpoint.save(place, state(30), keep=2)
    assert checkpoint.steps(place) == [20, 30]


def test_half_a_rotation_is_finished_by_the_next(place):
    (place / "10" / "manifest.json").unlink()
    checkpoint.save(place, state(30), keep=2)
    assert checkpoint.steps(place) == [20, 30]
    assert [path.name for path in (place / "10").iterdir()] == ["adapter"]
