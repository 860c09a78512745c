"""Content hashes of large weight files, remembered so that a 4 GB file is not read at every start."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

from .. import atomic
from ..errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from .cache import Cache

_SETTLED_S = 2.0
"""A file that changed this recently may change again under the same mtime; its hash is not remembered."""


def file_sha256(path: Path, cache: Cache) -> str:
    """sha256 of a file's content, from memory where its real path, size, mtime and inode are as they were.

    Raises: StorageError where it cannot be read, or changes meanwhile.
    """
    with atomic.storage(path, "cannot read"):
        before = _facts(path)
        key = json.dumps(before)
        known = cache.recall("identity", key)
        if isinstance(known, str):
            return known
        started_s = time.time()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _facts(path) != before:
            raise StorageError(f"{path} changed while it was read", "wait until it is complete, then start again")
    if started_s - before[2] / 1e9 > _SETTLED_S:
        cache.remember("identity", key, digest)
    return digest


def _facts(path: Path) -> tuple[str, int, int, int]:
    facts = path.stat()
    return os.path.realpath(path), facts.st_size, facts.st_mtime_ns, facts.st_ino
