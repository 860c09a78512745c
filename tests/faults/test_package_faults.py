"""Packing, publishing and drawing grids while the disk or the process fails: never a half file under a final name."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from outcomes import by_hand

from tuner import atomic, package
from tuner.cli import call
from tuner.errors import StorageError
from tuner.package import pack
from tuner.watch import Watcher


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return by_hand(tmp_path / "runs" / "dog", ())


def beside(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name != "runs")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("old", [False, True])
def test_a_disk_that_refuses_leaves_what_was_there(run, tmp_path, monkeypatch, code, old):
    out = tmp_path / "dog.zip"
    if old:
        out.write_bytes(b"the old one")

    def refuse(_path):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic, "sync_file", refuse)
    with pytest.raises(StorageError) as caught:
        pack(run, Watcher(), out=out, force=True)
    assert "MB free" in caught.value.message
    assert beside(tmp_path) == (["dog.zip"] if old else [])
    assert not old or out.read_bytes() == b"the old one"


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_disk_that_fills_up_while_packing_is_74_and_leaves_nothing(run, tmp_path):
    """A real short write: the process may write 4 kB a file, and no more."""
    code = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
    code += "from tuner.cli import call; sys.exit(call(['package', 'dog']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert "dog.zip" in done.stderr
    assert beside(tmp_path) == []


KILL = """
import os, signal, sys, zipfile
from tuner import atomic, package
point = sys.argv[1]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if point == "writing":
    add, seen = package._add, []
    def counted(*given):
        seen.append(1)
        return die() if len(seen) == 4 else add(*given)
    package._add = counted
elif point == "written":
    atomic.sync_file = die
elif point == "read back":
    os.replace = die
from tuner.cli import call
call(["package", "dog", "--force"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("point", ["writing", "written", "read back"])
def test_a_kill_leaves_no_half_zip_under_its_name(run, tmp_path, point):
    (tmp_path / "dog.zip").write_bytes(b"the old one")
    done = subprocess.run([sys.executable, "-c", KILL, point], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert (tmp_path / "dog.zip").read_bytes() == b"the old one"
    (left,) = [path for path in tmp_path.iterdir() if atomic.TEMPORARY.match(path.name)]
    os.utime(left, (0, 0))
    pack(run, Watcher(), force=True)
    assert beside(tmp_path) == ["dog.zip"]
    assert zipfile.ZipFile(tmp_path / "dog.zip").testzip() is None


def test_a_zip_that_does_not_read_back_is_not_called_written(run, tmp_path, monkeypatch):
    write = package._write

    def damaged(scratch, *given):
        members = write(scratch, *given)
        data = bytearray(scratch.read_bytes())
        data[len(data) // 2] ^= 1
        scratch.write_bytes(bytes(data))
        return members

    monkeypatch.setattr(package, "_write", damaged)
    with pytest.raises(StorageError, match="read back|did not come out"):
        pack(run, Watcher())
    assert beside(tmp_path) == []


def test_a_file_that_changes_while_it_is_packed_is_refused(run, tmp_path, monkeypatch):
    card = run / "adapter" / "README.md"
    size = package._size
    monkeypatch.setattr(package, "_size", lambda path: size(path) - (path == card))
    with pytest.raises(StorageError, match=r"README\.md changed"):
        pack(run, Watcher())
    assert beside(tmp_path) == []


def test_a_grid_on_a_full_disk_says_so_and_keeps_whole_cells(tmp_path, monkeypatch, capsys):
    """The third picture finds the disk full: two whole ones and an index that says so are there, and no sheet."""
    import json

    from PIL import Image

    from tuner import png_file

    monkeypatch.chdir(tmp_path)
    write, seen = png_file.write_picture, []

    def full(*given):
        seen.append(1)
        if len(seen) == 3:
            monkeypatch.setattr(os, "fsync", refuse)
        write(*given)

    def refuse(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tuner.grid_files.write_picture", full)
    words = ["a house", "--base", "toybox", "--x", "seed=0,1,2,3", "--steps", "1", "--size", "32", "--out", "g"]
    assert call(["grid", *words]) == 74
    assert "no space left" in capsys.readouterr().err.lower()
    assert sorted(path.name for path in Path("g").iterdir()) == ["000-000.png", "000-001.png", "grid.json"]
    for path in Path("g").glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    drawn = [cell["drawn"] for cell in json.loads(Path("g/grid.json").read_text())["cells"]]
    assert drawn == [True, True, False, False]
