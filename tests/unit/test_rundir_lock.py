"""One process at a time in a run directory; the lock dies with its process."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from tuner.errors import LockedError
from tuner.lock import Lock

HOLD = """
import sys, time
from pathlib import Path
from tuner.errors import LockedError
from tuner.lock import Lock
try:
    with Lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
except LockedError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def start(path):
    return subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)


def finish(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_refused_at_once_and_told_who_holds_it(tmp_path):
    path = tmp_path / ".lock"
    holder = start(path)
    try:
        assert holder.stdout.readline() == "held\n"
        begin = time.monotonic()
        with pytest.raises(LockedError) as caught, Lock(path):
            pass
        assert time.monotonic() - begin < 1
        assert f"process {holder.pid} on {platform.node()}" in caught.value.message
        assert caught.value.exit_code == 75
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with Lock(path) as lock:  # a killed holder leaves nothing to clean up
            assert lock.held
            assert json.loads(path.read_bytes())["pid"] == os.getpid()
    finally:
        finish(holder)


def test_of_simultaneous_starts_exactly_one_wins(tmp_path):
    path = tmp_path / ".lock"
    processes = [start(path) for _ in range(6)]
    try:
        lines = [process.stdout.readline() for process in processes]
        winner = lines.index("held\n")
        assert lines.count("held\n") == 1
        for number, line in enumerate(lines):
            if number != winner:
                assert f"process {processes[winner].pid} " in line
                assert processes[number].wait(5) == 75
    finally:
        for process in processes:
            finish(process)


def test_one_process_cannot_lock_twice(tmp_path):
    with Lock(tmp_path / ".lock"), pytest.raises(LockedError), Lock(tmp_path / ".lock"):
        pass
    with Lock(tmp_path / ".lock"):
        pass


def test_a_failure_inside_releases(tmp_path):
    with pytest.raises(RuntimeError), Lock(tmp_path / ".lock"):
        raise RuntimeError
    with Lock(tmp_path / ".lock") as lock:
        assert lock.held
    assert not lock.held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """A data loader's worker may outlive the run by a moment."""
    script = """
import os, sys, time
from pathlib import Path
from tuner.lock import Lock
lock = Lock(Path(sys.argv[1])).acquire()
if os.fork() == 0:
    print("child", os.getpid(), lock.held, flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True
    )
    word, child, held = parent.stdout.readline().split()
    try:
        assert (word, held) == ("child", "False")
        with pytest.raises(LockedError), Lock(tmp_path / ".lock"):
            pass
        parent.kill()
        parent.wait()
        with Lock(tmp_path / ".lock"):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)
        finish(parent)


def test_a_holder_without_a_name_is_still_a_holder(tmp_path):
    path = tmp_path / ".lock"
    with Lock(path):
        path.write_bytes(b"\xff not json")
        with pytest.raises(LockedError, match="another process"), Lock(path):
            pass


def test_locking_the_windows_way(tmp_path, monkeypatch):
    """The msvcrt path, with the module played by one that locks nothing and records what it is asked."""
    import types

    from tuner import lock as module

    asked = []

    def locking(descriptor, mode, count):
        asked.append((os.lseek(descriptor, 0, os.SEEK_CUR), mode, count))
        if len(asked) == 2:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(module, "ON_WINDOWS", True)
    with Lock(tmp_path / ".lock") as lock:
        assert lock.held
        assert json.loads((tmp_path / ".lock").read_bytes())["pid"] == os.getpid()
        with pytest.raises(LockedError, match=str(os.getpid())), Lock(tmp_path / ".lock"):
            pass
    assert asked[0] == (1 << 30, 2, 1)
