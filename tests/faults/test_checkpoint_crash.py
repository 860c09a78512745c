"""A save that is killed, or refused by the disk, at any system call leaves the checkpoint before it or the new one.

Every call of a save that changes the disk is enumerated once under strace; then the save is run again for each of
them, with SIGKILL or an error injected there. Random kills hardly ever land inside a save.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import checkpoint_child as child
import pytest

from tuner import atomic, checkpoint

STRACE = shutil.which("strace")
SCRIPT = Path(child.__file__)
CALLS = (
    "openat,write,pwrite64,ftruncate,fallocate,fsync,fdatasync,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir"
)
ENVIRONMENT = os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
ENVIRONMENT.pop("TUNER_CACHE", None)


def strace(log, folder, arguments, inject=None):
    command = [STRACE, "-f", "-y", "-o", str(log), "-e", f"trace={CALLS}"]
    if inject:
        command += ["-e", f"inject={inject}"]
    return subprocess.run(
        [*command, sys.executable, str(SCRIPT), str(folder), *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def strace_works(place):
    if STRACE is None:
        return False
    return (
        subprocess.run([STRACE, "-o", str(place / "probe"), "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture(scope="module", autouse=True)
def numpy_tensors():
    """The child's readers in this process too, while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        for name, function in child.WITHOUT_TORCH.items():
            patch.setattr(checkpoint, name, function)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run with checkpoints 10 and 20; saving 30 then writes one, places an adapter and rotates one."""
    top = tmp_path_factory.mktemp("prepared")
    if not strace_works(top):
        pytest.skip("strace is not here, or may not trace")
    for step in (10, 20):
        child.save(top / "checkpoints", step, float(step))
    return top


def points(prepared, tmp_path_factory, arguments):
    """(call, k) for the k-th call of each name that changes the disk during a save."""
    top = tmp_path_factory.mktemp("enumerate")
    shutil.copytree(prepared, top, dirs_exist_ok=True)
    result = strace(top / "log", top / "checkpoints", arguments)
    assert result.returncode == 0, result.stderr
    seen, found, ready = Counter(), [], False
    for line in (top / "log").read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)", line)
        if not match:
            continue
        call, rest = match[1], match[2]
        seen[call] += 1
        ready = ready or str(top / "ready") in rest
        changes = call != "openat" or re.search(r"O_(WRONLY|RDWR|CREAT)", rest)
        if ready and str(top) in rest and changes and str(top / "ready") not in rest:
            found.append((call, seen[call]))
    assert len(found) > 20
    assert {"fsync", "mkdir", "openat"} <= {call for call, _ in found}
    assert any(call.startswith("rename") for call, _ in found)
    return found


NEW = (30,)
AGAIN = (20, 21)  # another state for a step that is there, as after a resume that did not repeat bit for bit


@pytest.fixture(scope="module")
def new_points(prepared, tmp_path_factory):
    return points(prepared, tmp_path_factory, NEW)


@pytest.fixture(scope="module")
def again_points(prepared, tmp_path_factory):
    return points(prepared, tmp_path_factory, AGAIN)


def check(top, arguments):
    """The newest state is the one before or the new one, whole, and the next start leaves no orphans."""
    folder = top / "checkpoints"
    for swept in (False, True):
        state, rejected = checkpoint.newest(folder)
        assert state is not None
        assert not rejected
        old, new = (20, 20.0), (arguments[0], float(arguments[-1]))
        assert (state.step, state.facts["value"]) in (old, new)
        assert float(state.tensors["adapter.0"]["w"][0, 0]) == state.facts["value"]
        if not swept:
            for place in (top, folder, *folder.iterdir()):
                if place.is_dir():
                    atomic.sweep(place)
    assert (folder / "10" / "adapter" / "a.safetensors").is_file()
    leftovers = [path for path in top.rglob("*") if atomic.TEMPORARY.match(path.name)]
    assert not leftovers
    child.save(folder, *((30, 30.0) if arguments == NEW else (20, 21.0)))  # the next attempt succeeds
    state, rejected = checkpoint.newest(folder)
    assert state is not None
    assert (state.facts["value"], rejected) == (float(arguments[-1]), [])


def run_at(prepared, top, arguments, inject):
    shutil.copytree(prepared, top, dirs_exist_ok=True)
    result = strace(top / "log", top / "checkpoints", arguments, inject)
    (top / "log").unlink()
    return result


def kill_at(prepared, top, arguments, call, k):
    result = run_at(prepared, top, arguments, f"{call}:signal=SIGKILL:when={k}")
    assert result.returncode in (-9, 137), f"{call} {k} did not kill: {result.returncode} {result.stderr}"
    check(top, arguments)


def fail_at(prepared, top, arguments, call, k, error):
    """The disk refuses once; the program stops with 74 and one clear message, or has done without."""
    result = run_at(prepared, top, arguments, f"{call}:error={error}:when={k}")
    assert result.returncode in (0, 74), f"{call} {k} {error}: {result.returncode} {result.stderr}"
    assert "Traceback" not in result.stderr
    if result.returncode == 74:
        assert str(top) in result.stderr
        assert "MB free" in result.stderr
        assert "->" in result.stderr
    check(top, arguments)
    return result.returncode


def some(found, count):
    """`count` points spread over all, the renames always among them."""
    renames = [point for point in found if point[0].startswith("rename")]
    others = [point for point in found if point not in renames]
    return renames + others[:: max(1, len(others) // (count - len(renames)))]


def test_killed_at_some_calls(prepared, new_points, tmp_path):
    for number, (call, k) in enumerate(some(new_points, 10)):
        kill_at(prepared, tmp_path / str(number), NEW, call, k)


def test_killed_while_a_step_is_replaced(prepared, again_points, tmp_path):
    for number, (call, k) in enumerate(point for point in again_points if point[0].startswith("rename")):
        kill_at(prepared, tmp_path / str(number), AGAIN, call, k)


def test_disk_full_at_some_calls(prepared, new_points, tmp_path):
    codes = [
        fail_at(prepared, tmp_path / str(number), NEW, call, k, ("ENOSPC", "EIO")[number % 2])
        for number, (call, k) in enumerate(some(new_points, 8))
    ]
    assert codes.count(74) >= len(codes) // 2


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [NEW, AGAIN], ids=["new", "again"])
def test_killed_at_every_call(prepared, new_points, again_points, tmp_path, arguments):
    for number, (call, k) in enumerate(new_points if arguments == NEW else again_points):
        kill_at(prepared, tmp_path / str(number), arguments, call, k)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT", "EACCES"])
def test_disk_error_at_every_call(prepared, new_points, tmp_path, error):
    codes = Counter(
        fail_at(prepared, tmp_path / str(number), NEW, call, k, error) for number, (call, k) in enumerate(new_points)
    )
    assert codes[74] > codes[0]
