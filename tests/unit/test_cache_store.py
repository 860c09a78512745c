"""The store: what was put comes back, by key, to every process, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file

from tuner.cache_root import cache_root
from tuner.data import cache as cache_module
from tuner.data import packs
from tuner.data.cache import Cache, load
from tuner.data.identity import file_sha256
from tuner.errors import StorageError


def record(seed: int, shape=(4, 3, 5)) -> dict[str, np.ndarray]:
    noise = np.random.Generator(np.random.Philox(seed))
    return {part: noise.standard_normal(shape, dtype=np.float32) for part in ("mean", "logvar")}


def same(found, wanted) -> bool:
    return (
        found is not None and found.keys() == wanted.keys() and all(np.array_equal(found[k], wanted[k]) for k in wanted)
    )


def pack_files(root, kind="latents"):
    return sorted((root / "packs" / kind).glob("*.safetensors"))


def test_what_was_put_comes_back_here_and_after_reopening(tmp_path):
    cache = Cache(tmp_path)
    records = {f"key{n}": record(n) for n in range(7)}
    cache.put("latents", records)
    for opened in (cache, Cache(tmp_path)):
        assert all(same(opened.get("latents", key), arrays) for key, arrays in records.items())
        assert opened.get("latents", "other") is None
        assert opened.get("text", "key1") is None, "kinds do not mix"


def test_a_pack_is_a_plain_safetensors_file(tmp_path):
    Cache(tmp_path).put("latents", {"a": record(1), "b": record(2)})
    (path,) = pack_files(tmp_path)
    tensors = load_file(path)
    assert set(tensors) == {"a/mean", "a/logvar", "b/mean", "b/logvar"}
    assert np.array_equal(tensors["b/mean"], record(2)["mean"])


def test_arrays_are_read_only_views_into_the_file(tmp_path):
    Cache(tmp_path).put("latents", {"a": record(1)})
    arrays = Cache(tmp_path).get("latents", "a")
    assert not arrays["mean"].flags.writeable
    assert not arrays["mean"].flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        arrays["mean"][0] = 0


def test_shapes_of_any_rank_and_layout_survive(tmp_path):
    arrays = {"scalar": np.array(2.5, np.float32), "row": np.arange(3, dtype=np.float32), "turned": record(0)["mean"].T}
    Cache(tmp_path).put("text", {"a": arrays})
    assert same(Cache(tmp_path).get("text", "a"), arrays)


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros(3, np.float16), np.zeros((0, 3), np.float32)])
def test_arrays_that_a_pack_cannot_hold_are_refused(tmp_path, array):
    with pytest.raises(TypeError, match="float32"):
        Cache(tmp_path).put("text", {"a": {"x": array}})
    assert not tmp_path.joinpath("packs").exists()


@pytest.mark.parametrize("key", ["", "a/b", "../a", "a b", "x" * 129])
def test_keys_are_plain(tmp_path, key):
    with pytest.raises(ValueError, match="plain"):
        Cache(tmp_path).put("text", {key: record(0)})


def test_the_newest_pack_wins(tmp_path):
    cache = Cache(tmp_path)
    for seed in (1, 2, 3):
        cache.put("latents", {"a": record(seed), f"only{seed}": record(10 + seed)})
    fresh = Cache(tmp_path)
    assert same(fresh.get("latents", "a"), record(3))
    assert all(same(fresh.get("latents", f"only{seed}"), record(10 + seed)) for seed in (1, 2, 3))


def test_an_open_cache_sees_what_another_process_puts(tmp_path):
    reader, writer = Cache(tmp_path), Cache(tmp_path)
    for n in range(5):
        assert reader.get("latents", f"k{n}") is None
        writer.put("latents", {f"k{n}": record(n)})
        assert same(reader.get("latents", f"k{n}"), record(n))


def test_records_are_found_by_key_and_never_by_position(tmp_path):
    """The same records in another order, in other packs, with neighbours missing: each key gives its own arrays."""
    records = {f"k{n}": record(n) for n in range(12)}
    keys = list(records)
    for turn in range(4):
        root = tmp_path / str(turn)
        order = np.random.Generator(np.random.Philox(turn)).permutation(len(keys))
        for chunk in np.array_split(order[: len(keys) - turn], 3):
            Cache(root).put("latents", {keys[i]: records[keys[i]] for i in chunk})
        opened = Cache(root)
        for i in order:
            found = opened.get("latents", keys[i])
            assert found is None if i in order[len(keys) - turn :] else same(found, records[keys[i]])


def test_few_files_are_open_however_many_packs_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "_OPEN_FILES", 3)
    writer = Cache(tmp_path)
    for n in range(12):
        writer.put("latents", {f"k{n}": record(n)})
    cache = Cache(tmp_path)
    held = cache.get("latents", "k0")
    for _ in range(2):
        for n in range(12):
            assert same(cache.get("latents", f"k{n}"), record(n))
    assert len(cache._maps) == 3
    assert same(held, record(0)), "a view keeps its file"


def test_threads_share_one_cache(tmp_path):
    records = {f"k{n}": record(n) for n in range(40)}
    for n in range(0, 40, 4):
        Cache(tmp_path).put("latents", {f"k{i}": records[f"k{i}"] for i in range(n, n + 4)})
    cache = Cache(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda key: same(cache.get("latents", key), records[key]), list(records) * 5))
    assert all(found)


def test_a_lost_record_during_a_run_says_what_to_do(tmp_path):
    cache = Cache(tmp_path)
    cache.put("latents", {"a": record(1)})
    assert same(load(cache, "latents", "a", "dog.png"), record(1))
    reader = Cache(tmp_path)
    reader.get("latents", "absent")  # reads the headers, maps nothing
    pack_files(tmp_path)[0].unlink()
    with pytest.raises(StorageError, match=r"latents of dog\.png is gone") as caught:
        load(reader, "latents", "a", "dog.png")
    assert "start the same command again" in caught.value.hint


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a mapped file")
def test_a_mapped_pack_outlives_its_removal(tmp_path):
    cache = Cache(tmp_path)
    cache.put("latents", {"a": record(1), "b": record(2)})
    cache.get("latents", "a")
    pack_files(tmp_path)[0].unlink()
    assert same(cache.get("latents", "a"), record(1))
    assert same(cache.get("latents", "b"), record(2))


def test_the_root_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "here"))
    Cache().put("latents", {"a": record(1)})
    assert cache_root() == Cache().root == tmp_path / "here"
    assert pack_files(tmp_path / "here")
    assert (tmp_path / "here" / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_opening_and_missing_create_nothing(tmp_path):
    assert Cache(tmp_path / "none").get("latents", "a") is None
    assert Cache(tmp_path / "none").recall("identity", "a") is None
    assert not (tmp_path / "none").exists()


def test_memos_come_back_and_damage_makes_them_absent(tmp_path):
    cache = Cache(tmp_path)
    cache.remember("identity", "a", {"sha": "0" * 64, "n": [1, 2]})
    assert Cache(tmp_path).recall("identity", "a") == {"sha": "0" * 64, "n": [1, 2]}
    assert cache.recall("identity", "b") is None
    (path,) = (tmp_path / "memos" / "identity").iterdir()
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = cache.recall("identity", "a")
        assert found in (None, {"sha": "0" * 64, "n": [1, 2]}), "a flipped bit gives the same value or none"
        path.write_bytes(whole[:at])
        assert cache.recall("identity", "a") is None


def test_weights_are_hashed_once_and_again_when_they_change(tmp_path, monkeypatch):
    import hashlib

    weights, cache = tmp_path / "w.safetensors", Cache(tmp_path / "cache")
    reads = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: (reads.append(1), digest(*a))[1])
    weights.write_bytes(b"one")
    os.utime(weights, ns=(10**18, 10**18))
    one = file_sha256(weights, cache)
    assert one == hashlib.sha256(b"one").hexdigest()
    assert file_sha256(weights, Cache(tmp_path / "cache")) == one
    assert len(reads) == 1
    weights.write_bytes(b"two")  # the same length; only the mtime tells
    os.utime(weights, ns=(10**18, 10**18 + 1))
    assert file_sha256(weights, cache) == hashlib.sha256(b"two").hexdigest()
    weights.write_bytes(b"six")  # just written, so it may change again under the same mtime
    assert file_sha256(weights, cache) == hashlib.sha256(b"six").hexdigest()
    reads.clear()
    assert file_sha256(weights, cache) == hashlib.sha256(b"six").hexdigest()
    assert reads == [1], "a file that has just changed is not remembered"


def test_a_cache_that_cannot_be_written_forgets_but_hashes(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    weights = tmp_path / "w"
    weights.write_bytes(b"one")
    os.utime(weights, ns=(10**18, 10**18))
    cache = Cache(tmp_path / "cache")
    assert len(file_sha256(weights, cache)) == 64
    assert "not remembered" in cache.take_notes()[0]


def test_the_store_imports_nothing_heavy():
    code = (
        "import sys, tuner.data.cache, tuner.data.cache_care, tuner.data.identity, tuner.data.packs\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'diffusers', 'transformers', 'safetensors') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_names_sort_by_age():
    names = [packs.build("latents", {"a": record(n)})[0] for n in range(50)]
    assert names == sorted(names)
    assert all(packs.PACK_NAME.fullmatch(name) for name in names)
