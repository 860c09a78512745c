"""The store of encoded pictures and captions: found by key, checked, memory-mapped, shared by all runs."""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from .. import atomic
from ..cache_root import cache_root
from ..errors import StorageError
from . import packs
from .packs import Damaged, Pack, Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .cache_care import Badness, Entry, Removal

Kind = Literal["latents", "text"]
"""latents: `mean` and `logvar` (C, h, w) of a picture. text: what a backbone makes of a caption, by tensor name,
as `unpadded.trim` leaves it."""
KINDS: tuple[Kind, ...] = ("latents", "text")

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of tuner: see `tuner cache ls` and `tuner cache gc`.\n"
"""Content of CACHEDIR.TAG: backup programs pass such a folder over, and `gc` only touches a folder that has it."""

_OPEN_FILES = 64
"""Packs mapped at once; each holds a file descriptor, and macOS gives a process 256."""
_USED_EVERY_S = 3600
"""A pack's time of last use is renewed at most this often."""

_CLOCK_TICK_NS = 20_000_000
"""File systems stamp times with the kernel's tick, a few milliseconds."""


Stamp = tuple[int, int, int]
"""Inode, size and mtime of a file: another stamp, another content."""


@dataclass(slots=True)
class _Shelf:
    """What is known of one kind's packs."""

    folder: Path
    seen: set[str] = field(default_factory=set)
    """Names of the packs whose headers were read."""
    changed_ns: int = -1
    """The folder's mtime when it was last listed."""
    candidates: dict[str, list[Pack]] = field(default_factory=dict)
    """Every pack that has a key, the newest last."""
    checked: dict[str, tuple[Pack, Record, Stamp]] = field(default_factory=dict)
    """The record of a key whose sha256 this process has compared."""
    swept: bool = False


class Cache:
    """Records of float32 arrays by kind and key. Nothing is created before the first `put`.

    Any number of processes may read and write at once: a pack appears whole in one rename and is never changed. A
    record whose bytes do not match its sha256 counts as absent. One object may be used from several threads.

    Args:
        root: folder of the cache; None takes `cache_root()`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_root()
        self._shelves = {kind: _Shelf(self.root / "packs" / kind) for kind in KINDS}
        self._maps: OrderedDict[Path, tuple[mmap.mmap, Stamp]] = OrderedDict()
        self._lock = threading.RLock()
        self._notes: list[str] = []

    def get(self, kind: Kind, key: str) -> dict[str, NDArray[np.float32]] | None:
        """The arrays of a record, read-only, or None where there is no sound one; see `packs.views`.

        Raises: StorageError where the cache cannot be read.
        """
        shelf = self._shelves[kind]
        with self._lock:
            found = shelf.checked.get(key)
            if found is not None:
                pack, record, stamp = found
                mapped = self._map(pack)
                if mapped is not None and mapped[1] == stamp:
                    return packs.views(record, mapped[0])
                del shelf.checked[key]
            return self._first_touch(shelf, key) or (self._refresh(shelf) and self._first_touch(shelf, key)) or None

    def put(self, kind: Kind, records: Mapping[str, packs.Arrays]) -> None:
        """Write records (float32 arrays by name, by key) as one new file, which is there whole or not at all.

        Raises: StorageError (a full disk, no right to write); nothing has changed then.
        """
        if not records:
            return
        shelf = self._shelves[kind]
        name, content = packs.build(kind, records)
        self._prepare(shelf)
        atomic.write(shelf.folder / name, content)
        with self._lock:
            self._take_in(shelf, name)

    def recall(self, kind: str, key: str) -> Any | None:
        """A small JSON value that `remember` kept, or None where there is no sound one."""
        try:
            kept = json.loads(self._memo_path(kind, key).read_bytes())
            if kept["sha256"] == _memo_hash(kind, key, kept["value"]):
                return kept["value"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass  # absent, cut short or damaged: a memo can always be made again
        return None

    def remember(self, kind: str, key: str, value: Any) -> None:
        """Keep a small JSON value. A cache that cannot be written is only noted: a memo saves time, nothing more."""
        memo = {"value": value, "sha256": _memo_hash(kind, key, value)}
        try:
            self._tag()
            atomic.write(self._memo_path(kind, key), json.dumps(memo))
        except StorageError as error:
            self._notes.append(f"{kind} is not remembered for the next start: {error.message}")

    def take_notes(self) -> list[str]:
        """What was found damaged or could not be kept since the last call, one line each; each damage is told once."""
        with self._lock:
            notes, self._notes = self._notes, []
        return notes

    def entries(self) -> list[Entry]:
        """Every pack and memo kind; see `cache_care.entries`."""
        from . import cache_care

        return cache_care.entries(self.root)

    def gc(
        self, *, max_age_days: float | None = None, max_bytes: int | None = None, dry_run: bool = False
    ) -> list[Removal]:
        """Remove what is superseded, damaged, old or too much; see `cache_care.gc`."""
        from . import cache_care

        return cache_care.gc(self.root, max_age_days=max_age_days, max_bytes=max_bytes, dry_run=dry_run)

    def verify(self) -> list[Badness]:
        """Every record whose bytes are not what was written; see `cache_care.verify`."""
        from . import cache_care

        return cache_care.verify(self.root)

    def _memo_path(self, kind: str, key: str) -> Path:
        return self.root / "memos" / kind / f"{sha256(key.encode(errors='surrogateescape')).hexdigest()[:40]}.json"

    def _prepare(self, shelf: _Shelf) -> None:
        """Mark the root as a cache, and once a process remove what killed writers left."""
        self._tag()
        if not shelf.swept:
            from .cache_care import sweep

            shelf.swept = True
            sweep(shelf.folder)

    def _tag(self) -> None:
        tag = self.root / "CACHEDIR.TAG"
        if not tag.is_file():
            atomic.write(tag, TAG)

    def _first_touch(self, shelf: _Shelf, key: str) -> dict[str, NDArray[np.float32]] | None:
        """Check the candidates of a key, the newest first; forget those that fail."""
        candidates = shelf.candidates.get(key, [])
        while candidates:
            pack = candidates[-1]
            mapped = self._map(pack)
            if mapped is not None:
                buffer, stamp = mapped
                try:
                    packs.check(pack, key, buffer)
                except Damaged as damage:
                    self._notes.append(_damage(pack.path, key, damage))
                else:
                    shelf.checked[key] = (pack, pack.records[key], stamp)
                    return packs.views(pack.records[key], buffer)
            candidates.pop()
        return None

    def _map(self, pack: Pack) -> tuple[mmap.mmap, Stamp] | None:
        """A pack's bytes, mapped; None where the file is gone (removed by `gc`)."""
        mapped = self._maps.get(pack.path)
        if mapped is not None:
            self._maps.move_to_end(pack.path)
            return mapped
        with self._unreadable_is_absent(pack.path), pack.path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_size != pack.bytes:
                raise Damaged("its length has changed")
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return self._keep_map(pack.path, buffer, facts)
        return None

    def _keep_map(self, path: Path, buffer: mmap.mmap, facts: os.stat_result) -> tuple[mmap.mmap, Stamp]:
        mapped = buffer, (facts.st_ino, facts.st_size, _stamp_use(path, facts))
        self._maps[path] = mapped
        if len(self._maps) > _OPEN_FILES:
            self._maps.popitem(last=False)  # views that are in use keep their file mapped
        return mapped

    def _refresh(self, shelf: _Shelf) -> bool:
        """Read the headers of packs that appeared since the folder was last listed. Returns whether there were any."""
        with atomic.storage(shelf.folder, "cannot read"):
            try:
                changed_ns = shelf.folder.stat().st_mtime_ns
            except FileNotFoundError:
                return False
            if changed_ns == shelf.changed_ns:
                return False
            new = [name for name in packs.scan(shelf.folder) if name not in shelf.seen]
        # A pack that lands in the same tick of the file system's clock would not show in the mtime: list once more.
        shelf.changed_ns = changed_ns if time.time_ns() - changed_ns > _CLOCK_TICK_NS else -1
        for name in new:
            self._take_in(shelf, name)
        return bool(new)

    def _take_in(self, shelf: _Shelf, name: str) -> None:
        """Add one pack's records to the index."""
        path = shelf.folder / name
        shelf.seen.add(name)
        pack = None
        with self._unreadable_is_absent(path):
            pack = packs.read(path, shelf.folder.name)
        if pack is None:
            return
        for key in (*pack.records, *pack.bad):  # a bad record is only told of once it is asked for
            candidates = shelf.candidates.setdefault(key, [])
            candidates.append(pack)
            if len(candidates) > 1:
                candidates.sort(key=lambda candidate: candidate.path.name)

    @contextlib.contextmanager
    def _unreadable_is_absent(self, path: Path) -> Iterator[None]:
        """A file that `gc` removed is absent; one that is damaged or another user's is noted, and absent as well."""
        with atomic.storage(path, "cannot read"):
            try:
                yield
            except FileNotFoundError:
                pass
            except Damaged as damage:
                self._notes.append(_damage(path, "", damage))
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EIO):
                    raise
                self._notes.append(_damage(path, "", os.strerror(error.errno).lower()))


def load(cache: Cache, kind: Kind, key: str, name: str = "") -> dict[str, NDArray[np.float32]]:
    """The arrays of a record that was there when the run started. A picture's `name` helps the message.

    Raises: StorageError where it is not there any more.
    """
    arrays = cache.get(kind, key)
    if arrays is None:
        of = f" of {name}" if name else f" {key[:12]}"
        why = "; ".join(cache.take_notes()) or "it was removed while the run was reading it"
        hint = "start the same command again: it encodes what is missing and goes on from the last checkpoint"
        raise StorageError(f"the cached {kind}{of} is gone from {cache.root}: {why}", hint)
    return arrays


def _memo_hash(kind: str, key: str, value: Any) -> str:
    return sha256(json.dumps([kind, key, value], sort_keys=True).encode()).hexdigest()


def _damage(path: Path, key: str, why: object) -> str:
    record = f"record {key[:12]}: " if key else ""
    return f"a cached file is not used: {path.parent.name}/{path.name}: {record}{why}"


def _stamp_use(path: Path, facts: os.stat_result) -> int:
    """Renew a pack's mtime, by which `gc` tells when it was last used (its name tells its age). Returns the mtime."""
    if time.time_ns() - facts.st_mtime_ns > _USED_EVERY_S * 10**9:
        with contextlib.suppress(OSError):  # a cache that is read-only still serves
            os.utime(path)
            return path.stat().st_mtime_ns
    return facts.st_mtime_ns
