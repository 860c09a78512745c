"""Damage, full disks, kills and races: never a wrong record, never a lost one, each damage named once."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tuner import atomic
from tuner.data import cache_care
from tuner.data.cache import Cache
from tuner.errors import StorageError, UsageError


def record(seed: int, shape=(4, 3, 5)) -> dict[str, np.ndarray]:
    noise = np.random.Generator(np.random.Philox(seed))
    return {part: noise.standard_normal(shape, dtype=np.float32) for part in ("mean", "logvar")}


def same(found, wanted) -> bool:
    return (
        found is not None and found.keys() == wanted.keys() and all(np.array_equal(found[k], wanted[k]) for k in wanted)
    )


def fill(root, count=6):
    records = {f"k{n}": record(n) for n in range(count)}
    Cache(root).put("latents", records)
    (path,) = (root / "packs" / "latents").glob("*.safetensors")
    return records, path


def damages():
    """Fifty ways to spoil a file, as (name, function of its bytes)."""
    draw = np.random.Generator(np.random.Philox(7))

    def flip(at: float, bit: int):
        def spoil(data: bytes) -> bytes:
            n = int(at * len(data))
            return data[:n] + bytes([data[n] ^ (1 << bit)]) + data[n + 1 :]

        return spoil

    for n in range(30):
        at, bit = float(draw.random()), int(draw.integers(8))
        yield f"flip-{n}", flip(at, bit)
    for n in range(12):
        at = float(draw.random())
        yield f"cut-{n}", lambda data, at=at: data[: int(at * len(data))]
    yield "empty", lambda data: b""
    yield "zeros", lambda data: bytes(len(data))
    yield "zero-block", lambda data: data[:-300] + bytes(300)
    yield "longer", lambda data: data + b"more"
    yield "doubled", lambda data: data + data
    yield "text", lambda data: b"<html>404</html>" * 20
    yield "nested", lambda data: (100_000).to_bytes(8, "little") + b"[" * 100_000
    yield "huge-header", lambda data: (2**62).to_bytes(8, "little") + data[8:]


DAMAGES = list(damages())


@pytest.mark.parametrize("spoil", [spoil for _, spoil in DAMAGES], ids=[name for name, _ in DAMAGES])
def test_damage_never_gives_a_wrong_record_and_spares_the_others(tmp_path, spoil):
    records, path = fill(tmp_path)
    whole = path.read_bytes()
    spoiled = spoil(whole)
    path.write_bytes(spoiled)
    cache = Cache(tmp_path)
    found = {key: cache.get("latents", key) for key in records}
    for key, arrays in found.items():
        assert arrays is None or same(arrays, records[key])
    absent = [key for key, arrays in found.items() if arrays is None]
    notes = cache.take_notes()
    assert len(absent) == 0 or 1 <= len(notes) <= len(absent), "each damage is named once"
    assert all(path.name in note for note in notes)
    for key in records:
        cache.get("latents", key)
    assert cache.take_notes() == []
    cache.put("latents", {key: records[key] for key in absent})
    fresh = Cache(tmp_path)
    assert all(same(fresh.get("latents", key), records[key]) for key in records)
    assert fresh.take_notes() == [] or len(absent) == len(records), "a pack that has no good record stays until gc"
    header_end = 8 + int.from_bytes(whole[:8], "little")
    touched = [n for n in range(min(len(whole), len(spoiled))) if whole[n] != spoiled[n]]
    if touched and len(spoiled) == len(whole) and len(touched) == 1 and touched[0] >= header_end:
        assert len(absent) == 1, "a bit in one record costs that record alone"


def test_a_cut_pack_keeps_what_lies_before_the_cut(tmp_path):
    records, path = fill(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: -2 * 4 * 60 - 10])  # the last record and a little of the one before are gone
    cache = Cache(tmp_path)
    assert [key for key in records if cache.get("latents", key) is None] == ["k4", "k5"]
    assert ["it is cut short" in note for note in cache.take_notes()] == [True, True]
    assert [(entry.count, entry.problem) for entry in cache.entries()] == [(4, "2 of its records cannot be read")]
    assert same(cache.get("latents", "k3"), records["k3"])


def test_a_damaged_new_record_falls_back_to_the_sound_old_one(tmp_path):
    records, _ = fill(tmp_path)
    Cache(tmp_path).put("latents", {"k1": records["k1"]})
    newest = sorted((tmp_path / "packs" / "latents").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-1] + b"\xff")
    cache = Cache(tmp_path)
    assert same(cache.get("latents", "k1"), records["k1"])
    assert len(cache.take_notes()) == 1


def test_a_record_under_another_key_or_kind_is_no_hit(tmp_path):
    """Renaming inside the header, or moving the file to another kind, makes the record absent: no stale hits."""
    _, path = fill(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"k1", b"zz"))
    cache = Cache(tmp_path)
    assert cache.get("latents", "zz") is None
    assert cache.get("latents", "k1") is None
    other = tmp_path / "packs" / "text"
    other.mkdir()
    path.rename(other / path.name)
    moved = Cache(tmp_path)
    assert moved.get("text", "k2") is None
    assert "latents" in moved.take_notes()[0]


def test_a_file_changed_behind_its_map_is_checked_again_when_it_is_opened_again(tmp_path):
    records, path = fill(tmp_path)
    cache = Cache(tmp_path)
    assert same(cache.get("latents", "k0"), records["k0"])
    cache._maps.clear()
    data = path.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:header_end] + b"\x01" + data[header_end + 1 :])
    os.utime(path, ns=(1, 1))
    assert cache.get("latents", "k0") is None
    assert same(cache.get("latents", "k1"), records["k1"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_no_pack_and_no_leftover(tmp_path, monkeypatch, number, call):
    records, path = fill(tmp_path)

    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(StorageError) as caught:
            Cache(tmp_path).put("latents", {"new": record(99)})
    assert os.strerror(number).lower() in caught.value.message.lower()
    assert caught.value.hint
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    cache = Cache(tmp_path)
    assert cache.get("latents", "new") is None
    assert all(same(cache.get("latents", key), arrays) for key, arrays in records.items())
    cache.put("latents", {"new": record(99)})
    assert same(Cache(tmp_path).get("latents", "new"), record(99))


def test_a_disk_that_fills_up_while_writing_leaves_no_pack(tmp_path):
    """A real short write: the process may write 20 kB a file, and no more."""
    if sys.platform == "win32":
        pytest.skip("no resource limits")
    code = f"""
        import resource, signal
        import numpy as np
        from pathlib import Path
        from tuner.data.cache import Cache
        from tuner.errors import StorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        cache = Cache(Path({str(tmp_path)!r}))
        cache.put("latents", {{"small": {{"mean": np.ones(10, np.float32)}}}})
        try:
            cache.put("latents", {{"large": {{"mean": np.ones(10_000, np.float32)}}}})
        except StorageError as error:
            print("refused")
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "refused"
    cache = Cache(tmp_path)
    assert cache.get("latents", "large") is None
    assert cache.get("latents", "small") is not None
    assert len(list((tmp_path / "packs" / "latents").iterdir())) == 1


def leftover(folder, pid: int, age_s: float):
    path = folder / f".tmp-pack-{pid}-0123abcd"
    path.write_bytes(b"half")
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def dead_pid() -> int:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def test_leftovers_of_killed_writers_are_swept_and_those_of_live_ones_are_not(tmp_path):
    _, path = fill(tmp_path)
    killed = leftover(path.parent, dead_pid(), 3600)
    alive = leftover(path.parent, os.getpid(), 3600)
    Cache(tmp_path).put("latents", {"new": record(9)})
    assert not killed.exists()
    assert alive.exists(), "its writer may still be at it"


WRITER = """
    import sys
    import numpy as np
    from pathlib import Path
    from tuner.data.cache import Cache
    root, rounds, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    cache = Cache(root)
    for turn in range(rounds):
        print(turn, flush=True)
        cache.put("latents", {f"k{n}": {"mean": np.full(size, n, np.float32)} for n in range(turn, turn + 8)})
        for n in range(turn, turn + 8):
            found = cache.get("latents", f"k{n}")
            assert found is not None and np.array_equal(found["mean"], np.full(size, n, np.float32)), n
"""


def start_writer(root, rounds, size):
    args = [sys.executable, "-c", textwrap.dedent(WRITER), str(root), str(rounds), str(size)]
    return subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_four_processes_put_the_same_keys_at_once_while_others_tidy(tmp_path):
    writers = [start_writer(tmp_path, 25, 2000) for _ in range(4)]

    def tidy(act):
        while any(writer.poll() is None for writer in writers):
            act(tmp_path)
            time.sleep(0.005)

    with ThreadPoolExecutor(4) as pool:
        for tidying in [pool.submit(tidy, act) for act in (cache_care.gc, cache_care.gc, cache_care.entries)]:
            tidying.result()
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    cache = Cache(tmp_path)
    for n in range(32):
        assert np.array_equal(cache.get("latents", f"k{n}")["mean"], np.full(2000, n, np.float32))
    assert cache.take_notes() == []
    assert Cache(tmp_path).verify() == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_writers_leave_only_whole_packs(tmp_path):
    """Ten writers, each killed somewhere in its puts; a kill counts because the process dies of it."""
    delays = np.random.Generator(np.random.Philox(3)).uniform(0.0, 0.05, 10)
    for delay in delays:
        writer = start_writer(tmp_path, 10_000, 200_000)
        writer.stdout.readline()
        time.sleep(delay)
        writer.kill()
        writer.communicate()
        assert writer.returncode == -signal.SIGKILL
    assert Cache(tmp_path).verify() == []
    cache = Cache(tmp_path)
    found = [cache.get("latents", f"k{n}") for n in range(8)]
    assert cache.take_notes() == []
    assert all(arrays is None or np.array_equal(arrays["mean"], np.full(200_000, n)) for n, arrays in enumerate(found))


def test_gc_removes_what_is_superseded_or_damaged_and_says_so(tmp_path):
    records, first = fill(tmp_path)
    Cache(tmp_path).put("latents", records)
    folder = first.parent
    second = sorted(folder.iterdir())[-1]
    Cache(tmp_path).put("latents", {"x": record(50)})
    third = sorted(folder.iterdir())[-1]
    third.write_bytes(third.read_bytes()[:-5] + b"spoil")
    killed = leftover(folder, dead_pid(), 3600)
    would = Cache(tmp_path).gc(dry_run=True)
    assert len(list(folder.iterdir())) == 4
    removals = Cache(tmp_path).gc()
    assert [r.name for r in would] == [r.name for r in removals]
    reasons = {r.name.rsplit("/", 1)[1]: r.why for r in removals}
    assert reasons.keys() == {first.name, third.name, killed.name}
    assert "superseded" in reasons[first.name]
    assert "damaged" in reasons[third.name]
    assert "killed" in reasons[killed.name]
    assert list(folder.iterdir()) == [second]
    assert all(same(Cache(tmp_path).get("latents", key), arrays) for key, arrays in records.items())


def test_gc_keeps_the_sound_old_pack_where_the_new_one_is_damaged(tmp_path):
    records, first = fill(tmp_path)
    Cache(tmp_path).put("latents", records)
    second = sorted(first.parent.iterdir())[-1]
    second.write_bytes(second.read_bytes()[:-5] + b"spoil")  # its last record alone is bad
    Cache(tmp_path).gc()
    cache = Cache(tmp_path)
    assert all(same(cache.get("latents", key), arrays) for key, arrays in records.items())


@pytest.mark.parametrize("spoil", [lambda data: data[:-5] + b"spoil", lambda data: data[:-5]], ids=["flip", "cut"])
def test_gc_rescues_what_is_sound_in_a_damaged_pack(tmp_path, spoil):
    records, path = fill(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    then = time.time() - 5 * 86_400
    os.utime(path, (then, then))
    assert len(Cache(tmp_path).gc(dry_run=True)) == 1
    assert path.exists()
    (removal,) = Cache(tmp_path).gc()
    assert "1 of its records; 5 others" in removal.why
    assert not path.exists()
    assert Cache(tmp_path).verify() == []
    assert Cache(tmp_path).gc() == []
    (entry,) = Cache(tmp_path).entries()
    assert abs(entry.used_s - then) < 1, "to be kept is not to be used"
    cache = Cache(tmp_path)
    assert [key for key, arrays in records.items() if not same(cache.get("latents", key), arrays)] == ["k5"]


def test_gc_by_age_and_by_size_takes_the_least_recently_used_first(tmp_path):
    paths = []
    for n in range(4):
        Cache(tmp_path).put("latents", {f"k{n}": record(n)})
        paths.append(sorted((tmp_path / "packs" / "latents").iterdir())[-1])
        days_ago = time.time() - (10 - n) * 86_400
        os.utime(paths[n], (days_ago, days_ago))
    Cache(tmp_path).get("latents", "k0")  # used again: now the youngest
    removals = Cache(tmp_path).gc(max_age_days=8.5)
    assert [r.name.rsplit("/", 1)[1] for r in removals] == [paths[1].name]
    size = paths[0].stat().st_size
    removals = Cache(tmp_path).gc(max_bytes=size)
    assert [r.name.rsplit("/", 1)[1] for r in removals] == [paths[2].name, paths[3].name]
    assert same(Cache(tmp_path).get("latents", "k0"), record(0))


def test_a_pack_of_another_format_is_not_read_and_goes_by_age_alone(tmp_path):
    _, path = fill(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"tuner-cache-1", b"tuner-cache-9"))
    cache = Cache(tmp_path)
    assert cache.get("latents", "k0") is None
    assert "tuner-cache-9" in cache.take_notes()[0]
    assert cache.gc() == []
    assert len(cache.gc(max_bytes=0)) == 1


def test_gc_touches_nothing_of_others(tmp_path):
    fill(tmp_path)
    folder = tmp_path / "packs" / "latents"
    strangers = [tmp_path / "notes.txt", folder / "holiday.safetensors", folder / "sub", tmp_path / "packs" / "mine"]
    for path in strangers:
        path.write_text("mine") if path.suffix else path.mkdir()
    outside = tmp_path.parent / "outside.safetensors"
    outside.write_bytes(b"precious")
    link = folder / f"{0:019d}-{0:016x}.safetensors"
    try:
        link.symlink_to(outside)
    except OSError:
        pytest.skip("no right to make links here")
    Cache(tmp_path).gc(max_age_days=0, max_bytes=0)
    assert all(path.exists() for path in strangers)
    assert outside.read_bytes() == b"precious"
    assert link.is_symlink()


def test_a_folder_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "packs" / "latents").mkdir(parents=True)
    (tmp_path / "thesis.txt").write_text("years of work")
    for act in (cache_care.entries, cache_care.verify, cache_care.gc):
        with pytest.raises(UsageError, match="not a cache of tuner"):
            act(tmp_path)
    for empty in (tmp_path / "absent", tmp_path / "packs" / "latents"):
        assert cache_care.entries(empty) == []
        assert cache_care.gc(empty) == []


def test_a_place_where_nothing_is_cached_yet_is_no_fault(tmp_path):
    """Class pictures live beside the packs, and may be there before the first of them."""
    (tmp_path / "priors").mkdir()
    assert cache_care.entries(tmp_path) == cache_care.verify(tmp_path) == cache_care.gc(tmp_path) == []


def test_a_shelf_that_links_elsewhere_is_refused(tmp_path):
    root, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    _, path = fill(root)
    path.parent.rename(elsewhere)
    try:
        (root / "packs" / "latents").symlink_to(elsewhere)
    except OSError:
        pytest.skip("no right to make links here")
    with pytest.raises(UsageError, match="link"):
        cache_care.gc(root, max_bytes=0)
    assert (elsewhere / path.name).exists()


def test_a_file_that_cannot_be_removed_is_reported_and_left(tmp_path, monkeypatch):
    _, path = fill(tmp_path)
    unlink = type(path).unlink

    def held(self, *args, **kwargs):
        if self.suffix == ".safetensors":
            raise PermissionError(errno.EACCES, "held by another process")
        unlink(self, *args, **kwargs)

    monkeypatch.setattr(type(path), "unlink", held)
    (removal,) = Cache(tmp_path).gc(max_bytes=0)
    assert not removal.done
    assert "held by another process" in removal.why


def test_entries_and_verify_name_every_pack_and_bad_record(tmp_path):
    _, path = fill(tmp_path)
    Cache(tmp_path).put("text", {"t": {"text": np.ones((77, 8), np.float32)}})
    Cache(tmp_path).remember("identity", "a", "b")
    listed = Cache(tmp_path).entries()
    assert [(entry.kind, entry.count) for entry in listed] == [("latents", 6), ("text", 1), ("identity", 1)]
    assert listed[0].bytes == path.stat().st_size
    assert abs(listed[0].written_s - time.time()) < 600
    assert Cache(tmp_path).verify() == []
    data = path.read_bytes()
    path.write_bytes(data[:-3] + b"bad")
    (bad,) = Cache(tmp_path).verify()
    assert (bad.key, bad.name) == ("k5", f"packs/latents/{path.name}")
    path.write_bytes(b"gone")
    assert Cache(tmp_path).entries()[0].problem
    json.dumps([vars(b) if hasattr(b, "__dict__") else (b.name, b.key, b.why) for b in Cache(tmp_path).verify()])


def test_temporary_names_are_those_that_are_swept(tmp_path):
    assert atomic.TEMPORARY.match(atomic.temporary(tmp_path / "pack.safetensors").name)
