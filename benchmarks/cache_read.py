"""Cost of a cached record of 512 KB against np.load of an npz and torch.load, and of opening a cache of many packs.

    python benchmarks/cache_read.py [--packs 10000]

The readers take turns, and the least of all rounds counts, so that a busy machine changes the ratios little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tuner.data.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = (16, 64, 64)  # mean and logvar of 256 KB each
RECORDS = 64
ROUNDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, default=10_000)
    many = parser.parse_args().packs
    with tempfile.TemporaryDirectory() as place:
        read_costs(Path(place))
        opening_costs(Path(place), many)


def read_costs(place: Path) -> None:
    noise = np.random.Generator(np.random.Philox(0))
    records = {
        f"{n:040x}": {part: noise.standard_normal(SHAPE, dtype=np.float32) for part in ("mean", "logvar")}
        for n in range(RECORDS)
    }
    Cache(place / "cache").put("latents", records)
    for key, arrays in records.items():
        np.savez(place / f"{key}.npz", **arrays)
        torch.save({part: torch.from_numpy(array) for part, array in arrays.items()}, place / f"{key}.pt")
    batch = torch.empty(2, *SHAPE)
    rows = batch.numpy()
    cache = Cache(place / "cache")

    def ours(key: str) -> None:
        arrays = cache.get("latents", key)
        assert arrays is not None
        rows[0], rows[1] = arrays["mean"], arrays["logvar"]

    def views(key: str) -> None:
        assert cache.get("latents", key) is not None

    def npz(key: str) -> None:
        with np.load(place / f"{key}.npz") as arrays:
            rows[0], rows[1] = arrays["mean"], arrays["logvar"]

    def torch_file(key: str) -> None:
        arrays = torch.load(place / f"{key}.pt", weights_only=True)
        batch[0], batch[1] = arrays["mean"], arrays["logvar"]

    first = microseconds(ours, list(records))
    best = {reader.__name__: float("inf") for reader in (ours, views, npz, torch_file)}
    for _ in range(ROUNDS):
        for reader in (ours, views, npz, torch_file):
            best[reader.__name__] = min(best[reader.__name__], microseconds(reader, list(records)))
    print(f"512 KB record, copied into a batch   {best['ours']:8.1f} us")
    print(f"  the lookup alone (views, no copy)  {best['views']:8.1f} us")
    print(f"  first touch, with sha256           {first:8.1f} us")
    print(f"  np.load of an npz                  {best['npz']:8.1f} us   {best['npz'] / best['ours']:.1f}x")
    print(
        f"  torch.load                         {best['torch_file']:8.1f} us   {best['torch_file'] / best['ours']:.1f}x"
    )


def microseconds(read: Callable[[str], None], keys: list[str]) -> float:
    """Mean microseconds a record."""
    start = time.perf_counter()
    for key in keys:
        read(key)
    return (time.perf_counter() - start) / len(keys) * 1e6


def opening_costs(place: Path, many: int) -> None:
    """Open a cache of `many` packs with one record each, and one pack with `many` records."""
    one = {"mean": np.zeros((1, 2, 2), np.float32)}
    folder = place / "packs"
    filler = Cache(folder)
    filler.put("latents", {"first": one})
    from tuner.data import packs

    for n in range(many - 1):  # without the fsync of a put
        name, content = packs.build("latents", {f"{n:040x}": one})
        (folder / "packs" / "latents" / name).write_bytes(content)
    Cache(place / "pack").put("latents", {f"{n:040x}": one for n in range(many)} | {"first": one})
    for what, where in ((f"{many} packs", folder), (f"one pack of {many} records", place / "pack")):
        start = time.perf_counter()
        assert Cache(where).get("latents", "first") is not None
        print(f"open {what:32} {(time.perf_counter() - start) * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
