"""A writer that dies at any moment leaves a dataset that the next one finds whole, and many writers do not mix."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest
from dropped import encoded, said, sound, zipped

from tuner import atomic
from tuner.dataset import Dataset, editing, exclusive, intake
from tuner.dataset.editing import Prefix
from tuner.dataset.scratch import scratch
from tuner.errors import LockedError

CALLS = ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir")
"""What writes: a child dies just before its n-th one of these."""


def dies_before(number, work):
    """Run `work` in a child that is killed before its `number`-th change of the disk; whether it got to its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, none of which hold our locks
        child = os.fork()
    if child == 0:
        left = [number]

        def counted(call):
            def before(*args, **more):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **more)

            return before

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def at_every_moment(tmp_path, before, work, check):
    """`check` what is left of a copy of `before` where `work` died before each of its changes."""
    ended, number = False, 0
    while not ended:
        number += 1
        copy = Dataset(tmp_path / f"copy{number}")
        shutil.copytree(before.path, copy.path)
        ended = dies_before(number, lambda at=copy: work(at))
        Dataset.open(copy.path)
        sound(copy)
        check(copy)
        shutil.rmtree(copy.path)
    return number


@pytest.fixture
def before(tmp_path):
    made = Dataset.new(tmp_path / "before", "d")
    for number in range(3):
        intake(made, f"{number}.png", encoded(number))
        intake(made, f"{number}.txt", f"caption {number}".encode())
    return made


def by_name(dataset):
    captions = dataset.captions()
    return {picture.name: captions[picture.id] for picture in dataset.contents().pictures}


OLD = {"0.png": "caption 0", "1.png": "caption 1", "2.png": "caption 2"}


def test_an_intake_that_dies_leaves_no_half_picture(before, tmp_path):
    data = zipped([("a.png", encoded(10)), ("a.txt", b"a"), ("b.png", encoded(11)), ("c.png", b"broken")])
    new = {**OLD, "a.png": "a", "b.png": ""}

    def check(copy):
        assert by_name(copy) in (OLD, new)
        intake(copy, "a.zip", data)  # again, as somebody would
        assert by_name(copy) == new

    assert at_every_moment(tmp_path, before, lambda copy: intake(copy, "a.zip", data), check) > 10


def test_a_caption_that_dies_is_there_or_not(before, tmp_path):
    def check(copy):
        assert by_name(copy) in (OLD, {**OLD, "1.png": "new"})
        intake(copy, "1.txt", b"new")
        assert by_name(copy) == {**OLD, "1.png": "new"}

    at_every_moment(tmp_path, before, lambda copy: intake(copy, "1.txt", b"new"), check)


def test_an_edit_that_dies_is_done_or_not_and_can_be_taken_back(before, tmp_path):
    new = {name: f"photo of {text}" for name, text in OLD.items()}

    def check(copy):
        assert by_name(copy) in (OLD, new)
        editing.undo(copy)
        assert by_name(copy) == OLD

    assert at_every_moment(tmp_path, before, lambda copy: editing.apply(copy, Prefix("photo of")), check) > 3


def test_an_undo_that_dies_can_be_done_again(before, tmp_path):
    editing.apply(before, Prefix("photo of"))

    def check(copy):
        editing.undo(copy)
        assert by_name(copy) == OLD

    at_every_moment(tmp_path, before, editing.undo, check)


def test_a_removal_that_dies_loses_nothing(before, tmp_path):
    ids = list(before.captions())
    two = {"0.png": "caption 0", "2.png": "caption 2"}

    def check(copy):
        assert by_name(copy) in (OLD, two)
        if by_name(copy) == two:
            editing.undo(copy)
        assert by_name(copy) == OLD

    assert at_every_moment(tmp_path, before, lambda copy: editing.remove(copy, ids[1:2]), check) > 4
    editing.remove(before, ids[1:2])

    def check_back(copy):
        editing.undo(copy)
        assert by_name(copy) == OLD

    assert at_every_moment(tmp_path, before, editing.undo, check_back) > 4


def test_forgetting_that_dies_forgets_or_not(before, tmp_path):
    editing.remove(before, list(before.captions())[1:2])

    def check(copy):
        editing.forget(copy)
        assert not list(copy.removed.iterdir())

    at_every_moment(tmp_path, before, editing.forget, check)


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from dropped import encoded
from tuner.dataset import Dataset, intake
dataset, start = Dataset(Path(sys.argv[1])), int(sys.argv[2])
for number in range(start, start + 8):
    (verdict,) = intake(dataset, f"{number}.png", encoded(number))
    assert verdict.accepted, verdict
    (verdict,) = intake(dataset, f"{number}.txt", str(number).encode())
    assert verdict.accepted, verdict
print("done")
"""


def test_processes_do_not_mix(tmp_path):
    dataset = Dataset.new(tmp_path / "d", "d")
    command = [sys.executable, "-c", CHILD, str(dataset.path)]
    here = os.path.dirname(os.path.dirname(__file__))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([*command, str(100 * n), here], stdout=subprocess.PIPE, text=True, env=env) for n in range(3)
    ]
    assert [child.communicate(timeout=120)[0] for child in children] == ["done\n"] * 3
    contents, captions = sound(dataset)
    assert len(contents.pictures) == 24
    assert {picture.name: captions[picture.id] for picture in contents.pictures} == {
        f"{100 * n + k}.png": str(100 * n + k) for n in range(3) for k in range(8)
    }


def test_a_hundred_threads_each_get_the_right_verdict(tmp_path):
    dataset = Dataset.new(tmp_path / "d", "d")
    drops = {f"{n}.png": encoded(n) for n in range(30)}
    drops |= {f"{n}.txt": str(n).encode() for n in range(30)}
    drops |= {f"broken {n}.png": encoded(n)[:-200] for n in range(30)}
    told, faults = {}, []

    def drop(name, data):
        try:
            (told[name],) = intake(dataset, name, data)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=drop, args=item) for item in drops.items()]
    threads += [threading.Thread(target=drop, args=(f"copy {n}.bmp", encoded(0, "BMP"))) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    contents, captions = sound(dataset)
    copies = ["0.png", *(f"copy {n}.bmp" for n in range(10))]
    assert sum(told[name].accepted for name in copies) == 1  # whichever came first
    for n in range(1, 30):
        assert told[f"{n}.png"].accepted
        assert captions[told[f"{n}.png"].picture] == str(n)
    for n in range(30):
        assert told[f"{n}.txt"].accepted
        assert "broken PNG" in told[f"broken {n}.png"].reason
    assert len(contents.pictures) == 30
    assert len(contents.refused) == 40


def test_a_living_writer_keeps_what_it_brings(tmp_path):
    dataset = Dataset.new(tmp_path / "d", "d")
    with scratch(dataset) as folder:
        (folder / "mine").write_bytes(b"x")
        Dataset.open(dataset.path)
        with scratch(dataset):
            assert (folder / "mine").is_file()
    assert not list(dataset.incoming.iterdir())


def test_a_dataset_that_is_deleted_stays_deleted(tmp_path):
    dataset = Dataset.new(tmp_path / "d", "d")
    with scratch(dataset) as folder:
        assert folder.is_dir()
        dataset.delete()
    assert not list(tmp_path.iterdir())


def test_waiting_has_an_end(tmp_path):
    with exclusive.exclusive(tmp_path / "lock"):
        start = time.monotonic()
        with pytest.raises(LockedError, match="busy"), exclusive.exclusive(tmp_path / "lock", patience_s=0.1):
            pass
        assert time.monotonic() - start < 5
    with exclusive.exclusive(tmp_path / "lock", patience_s=0):
        pass


def test_a_full_disk_is_told_and_leaves_nothing(before, monkeypatch):
    import errno

    from tuner.errors import StorageError

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", full)
        with pytest.raises(StorageError, match="no space left"):
            intake(before, "a.png", encoded(20))
    contents, _ = sound(before)
    assert len(contents.pictures) == 3
    assert said(intake(before, "a.png", encoded(20))) == [("a.png", True)]
    assert json.loads((before.path / "dataset.json").read_text())["name"] == "d"
