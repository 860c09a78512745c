"""Gather records into packs: large enough to be few, early enough that a kill loses little."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .cache import Cache, Kind

PACK_BYTES = 64_000_000
"""A pack is written once it is this large,"""
PACK_SECONDS = 5.0
"""or once its first record is this old."""


class Writer:
    """Puts records into the cache. As a context manager it also writes what is left, however the block ends."""

    def __init__(self, cache: Cache, kind: Kind) -> None:
        self.cache = cache
        self.kind: Kind = kind
        self._pending: dict[str, dict[str, NDArray[np.float32]]] = {}
        self._bytes = 0
        self._since_s = 0.0

    def add(self, key: str, arrays: dict[str, NDArray[np.float32]]) -> None:
        """Take one record. Raises: StorageError where a pack is due and cannot be written."""
        if not self._pending:
            self._since_s = time.monotonic()
        self._pending[key] = arrays
        self._bytes += sum(array.nbytes for array in arrays.values())
        if self._bytes >= PACK_BYTES or time.monotonic() - self._since_s >= PACK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered. Raises: StorageError; the records are then not tried again."""
        pending, self._pending, self._bytes = self._pending, {}, 0
        self.cache.put(self.kind, pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
