"""The zip of a run: every file whole, notes that name a place for each tool, nothing half-written, nothing foreign."""

from __future__ import annotations

import json
import os
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import CARD, by_hand, saved

from tuner import package
from tuner.cli import call
from tuner.errors import DataError, StorageError, UsageError
from tuner.outcome import adapter_folder, files_of, saved_steps
from tuner.package import pack
from tuner.watch import Watcher


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return by_hand(tmp_path / "runs" / "dog")


def contents(file) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_zip_holds_every_file_byte_for_byte_and_notes(run, tmp_path):
    made = pack(run, Watcher())
    assert made.file == Path("dog.zip")
    told = contents(made.file)
    notes = told.pop("dog/LOAD.txt").decode()
    assert told == {f"dog/{path.name}": path.read_bytes() for path in (run / "adapter").iterdir()}
    assert made.size == made.file.stat().st_size
    assert [member.name for member in made.members][:2] == ["dog/LOAD.txt", "dog/README.md"]
    for tool, place in {"AUTOMATIC1111": "models/Lora", "ComfyUI": "models/loras"}.items():
        assert place in notes.partition(f"{tool}: dog.safetensors\n")[2].splitlines()[0]
    assert "diffusers: pytorch_lora_weights.safetensors" in notes
    assert "Write in the prompt: sks dog" in notes
    with zipfile.ZipFile(made.file) as archive:
        kinds = {Path(info.filename).suffix: info.compress_type for info in archive.infolist()}
    assert kinds[".safetensors"] == zipfile.ZIP_STORED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dog.zip", "runs"]


def test_what_is_unpacked_is_an_adapter_folder_again(run, tmp_path):
    from tuner.formats.inspect import inspect_file

    made = pack(run, Watcher())
    with zipfile.ZipFile(made.file) as archive:
        archive.extractall(tmp_path / "elsewhere")
    here, there = (inspect_file(place) for place in (run / "adapter", tmp_path / "elsewhere" / "dog"))
    assert here == there


def test_equal_files_make_equal_zips(run):
    first = pack(run, Watcher()).file.read_bytes()
    for path in (run / "adapter").iterdir():
        os.utime(path, (0, 0))
    assert pack(run, Watcher(), force=True).file.read_bytes() == first


def test_a_checkpoint_is_packed_under_its_step(run):
    made = pack(run, Watcher(), step=20)
    assert made.file == Path("dog-20.zip")
    assert {name.partition("/")[0] for name in contents(made.file)} == {"dog-20"}


def test_whole_models_go_in_with_their_folders(run):
    part = run / "adapter" / "model" / "unet"
    part.mkdir(parents=True)
    (part / "config.json").write_text("{}")
    saved(run / "other")
    (run / "other" / "dog.safetensors").rename(part / "diffusion_pytorch_model.safetensors")
    assert {"dog/model/unet/config.json", "dog/model/unet/diffusion_pytorch_model.safetensors"} <= contents(
        pack(run, Watcher()).file
    ).keys()


def test_a_member_beyond_the_old_limit_is_zip64(run, monkeypatch):
    """The limit is lowered rather than four gigabytes written."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 2000)
        made = pack(run, Watcher())
    data = made.file.read_bytes()
    assert b"\x01\x00\x10\x00" in data  # the field of zip64: two sizes of eight bytes
    assert contents(made.file)["dog/dog.safetensors"] == (run / "adapter" / "dog.safetensors").read_bytes()


@pytest.mark.slow
def test_more_than_four_gigabytes_are_packed_in_little_memory(run, tmp_path):
    import subprocess
    import sys

    large = run / "adapter" / "model" / "large.bin"
    large.parent.mkdir()
    with large.open("wb") as file:
        file.truncate(2**32 + 17)
    code = "import resource, sys; from tuner.cli import call; c = call(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(c)"
    words = [sys.executable, "-c", code, "package", str(run), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert int(done.stderr.splitlines()[-1]) < 300_000
    with zipfile.ZipFile(json.loads(done.stdout)["file"]) as archive:
        assert archive.getinfo("dog/model/large.bin").file_size == 2**32 + 17


def test_what_file_managers_leave_is_left_out_and_a_link_is_refused(run):
    (run / "adapter" / ".DS_Store").write_text("")
    (run / "adapter" / ".tmp-x-1-00000000").write_text("")
    assert len(pack(run, Watcher()).members) == 6
    (run / "adapter" / "secret.txt").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=r"secret\.txt is a link"):
        pack(run, Watcher(), force=True)


def broken(run, what):
    adapter = run / "adapter"
    file = adapter / "dog.safetensors"
    if what == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif what == "no card":
        (adapter / "README.md").unlink()
    elif what == "no adapter":
        for path in adapter.glob("*.safetensors"):
            path.unlink()
    elif what == "unfinished":
        adapter.rename(run / "gone")


@pytest.mark.parametrize(
    ("what", "fault", "said"),
    [
        ("cut", DataError, "dog.safetensors"),
        ("no card", UsageError, "has no README.md"),
        ("no adapter", DataError, "holds no"),
        ("unfinished", UsageError, "is not finished"),
    ],
)
def test_an_outcome_that_is_not_whole_is_refused_before_anything_is_written(run, tmp_path, what, fault, said):
    broken(run, what)
    with pytest.raises(fault, match=said) as caught:
        pack(run, Watcher())
    if what == "unfinished":
        assert "20, 40" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"step": 7}, "no adapter of step 7"),
        ({"out": Path("dog.tar")}, r"does not end in \.zip"),
        ({"out": Path("here.zip")}, "is a folder"),
        ({"out": Path("there.zip")}, "is there already"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_written_is_refused(run, given, said):
    Path("here.zip").mkdir()
    Path("there.zip").write_text("mine")
    with pytest.raises(UsageError, match=said):
        pack(run, Watcher(), **given)
    assert Path("there.zip").read_text() == "mine"


def test_too_little_room_is_said_before_the_disk_is_full(run, monkeypatch):
    import shutil

    monkeypatch.setattr(package.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(StorageError, match="MB are free"):
        pack(run, Watcher())


def test_what_a_killed_predecessor_left_goes_and_a_living_ones_stays(run, tmp_path):
    names = {"dead": 2**22 + 1, "alive": os.getpid(), "young": 2**22 + 2}
    left = {who: tmp_path / f".tmp-dog.zip-{pid}-0123abcd" for who, pid in names.items()}
    other = tmp_path / f".tmp-cat.zip-{2**22 + 1}-0123abcd"
    for path in (*left.values(), other):
        path.write_text("half")
        os.utime(path, (time.time() - 3600,) * 2)
    os.utime(left["young"])
    pack(run, Watcher())
    assert {who for who, path in left.items() if path.exists()} == {"alive", "young"}
    assert other.exists()


def test_the_command_says_what_it_wrote(run, capsys):
    assert call(["package", "dog"]) == 0
    assert "dog.zip: 6 files" in capsys.readouterr().out
    assert call(["package", "dog", "--force", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["members"][0]["name"] == "dog/LOAD.txt"
    assert call(["package", "cat", "--json"]) == 2
    assert "no run 'cat'" in json.loads(capsys.readouterr().out)["error"]["message"]


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0\\", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
    .filter(lambda name: not name.startswith(".") and name not in ("README.md", "Thumbs.db", "desktop.ini"))
    .filter(lambda name: not name.endswith(".safetensors") and len(name.encode()) < 200),
    max_size=4,
    unique_by=str.casefold,
)  # fmt: skip


@given(NAMES, st.binary(max_size=3000))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_comes_out_as_it_went_in(tmp_path_factory, names, data):
    top = tmp_path_factory.mktemp("any")
    run = by_hand(top / "dog", ())
    for name in names:
        (run / "adapter" / name).write_bytes(data)
    told = contents(pack(run, Watcher(), out=top / "x.zip").file)
    for path in files_of(run / "adapter"):
        assert told[f"dog/{path.as_posix()}"] == (run / "adapter" / path).read_bytes()


def test_the_steps_of_a_run_are_those_with_files(run):
    (run / "checkpoints" / "60").mkdir()
    (run / "checkpoints" / ".tmp-80-1-00000000" / "adapter").mkdir(parents=True)
    assert saved_steps(run) == [20, 40]
    assert adapter_folder(run, 40) == run / "checkpoints" / "40" / "adapter"
    assert (run / "adapter" / "README.md").read_text() == CARD
