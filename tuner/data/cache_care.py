"""What `tuner cache ls | gc | verify` do. Nothing outside a cache's own packs and memos is ever touched."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import atomic
from ..errors import UsageError
from . import packs
from .cache import KINDS, TAG
from .packs import Damaged, Pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_DAY_S = 86_400
_LEFTOVER_S = 600
"""A dead writer's file is left for this long: the writer may live on another machine that shares the folder."""

_NEIGHBOURS = {"priors"}
"""Folders that others keep beside the packs, perhaps before there is a pack."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One pack, or all memos of one kind."""

    kind: str
    name: str
    """Path below the cache's root."""
    count: int
    """Records."""
    bytes: int
    written_s: float
    """When it was written, seconds since 1970."""
    used_s: float
    """When it was last used, to within an hour."""
    problem: str = ""
    """Why it cannot be read, else empty."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What `gc` removed, or would have."""

    name: str
    """Path below the cache's root."""
    bytes: int
    why: str
    done: bool
    """False for a dry run, and where the file could not be removed: another process holds it (on Windows)."""


@dataclass(frozen=True, slots=True)
class Badness:
    """A record (or, without a key, a whole pack) that is not what was written."""

    name: str
    """Path below the cache's root."""
    key: str
    why: str
    foreign: bool = False
    """Written in another format, by another version; sound for all that is known."""


def entries(root: Path) -> list[Entry]:
    """Every pack, oldest first, and memos by kind. Raises: StorageError; UsageError where `root` is no cache."""
    found = []
    for path in _packs(root):
        with atomic.storage(path, "cannot read"), contextlib.suppress(FileNotFoundError):
            try:
                pack, problem = packs.read(path, path.parent.name), ""
                count = len(pack.records)
                if pack.bad:
                    problem = f"{len(pack.bad)} of its records cannot be read"
            except Damaged as damage:
                count, problem = 0, str(damage)
            facts = path.stat()
            name, written_s = path.relative_to(root).as_posix(), int(path.name[:19]) / 1e9
            found.append(Entry(path.parent.name, name, count, facts.st_size, written_s, facts.st_mtime, problem))
    for kind in sorted(_subfolders(root / "memos")):
        facts = [path.stat() for path in sorted(kind.glob("*.json"))]
        if facts:
            times = [fact.st_mtime for fact in facts]
            total = sum(fact.st_size for fact in facts)
            found.append(Entry(kind.name, f"memos/{kind.name}", len(facts), total, min(times), max(times)))
    return found


def verify(root: Path) -> list[Badness]:
    """Compare every record's sha256. Raises: StorageError; UsageError where `root` is no cache."""
    return [bad for path in _packs(root) for bad in _examine(root, path)[1]]


def gc(
    root: Path, *, max_age_days: float | None = None, max_bytes: int | None = None, dry_run: bool = False
) -> list[Removal]:
    """Remove leftovers of killed writers and packs that are damaged or superseded, then what is old or too much.

    What is sound in a partly damaged pack moves to a new one first. A pack counts as superseded only after the sha256
    of every record that replaces it was compared. What a running process has mapped stays readable to it (on Windows it
    cannot be removed, and is reported). A pack of another format goes by age and size alone.

    Args:
        root: folder of the cache.
        max_age_days: remove packs that were not used for so long.
        max_bytes: then remove the least recently used until the packs fit.
        dry_run: only say what would go.

    Raises: StorageError; UsageError where `root` is no cache.
    """
    removals = []
    for folder in [*_shelves(root), *_subfolders(root / "memos")]:
        removals += [_remove(root, path, "left by a killed process", dry_run) for path in _leftovers(folder)]
    kept = []
    for path, why, rescued in _needless(root):
        if why:
            if rescued and not dry_run:
                with atomic.storage(path, "cannot read"):
                    try:
                        kept.append(_rescue(path, rescued))
                    except (FileNotFoundError, Damaged):  # it changed a moment ago; the next gc looks again
                        continue
            removals.append(_remove(root, path, why, dry_run))
        else:
            with atomic.storage(path, "cannot read"), contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                kept.append((facts.st_mtime, facts.st_size, path))
    kept.sort(key=lambda one: one[0])
    total = sum(size for _, size, _ in kept)
    for used_s, size, path in kept:
        days = (time.time() - used_s) / _DAY_S
        if max_age_days is not None and days > max_age_days:
            why = f"not used for {days:.0f} days"
        elif max_bytes is not None and total > max_bytes:
            why = "the packs used least recently go, for the cache is over its limit"
        else:
            continue
        total -= size
        removals.append(_remove(root, path, why, dry_run))
    return removals


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder of packs. Raises: StorageError."""
    for path in _leftovers(folder):
        with contextlib.suppress(OSError):  # it stays for `gc`, which reports it
            path.unlink()


def _leftovers(folder: Path) -> Iterator[Path]:
    """Temporary files whose process is gone."""
    import psutil

    if not folder.is_dir():
        return
    with atomic.storage(folder, "cannot tidy"):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
    for name in names:
        if not atomic.TEMPORARY.match(name):
            continue
        path = folder / name
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished
            age_s = time.time() - path.stat().st_mtime
            alive = psutil.pid_exists(int(name.rsplit("-", 2)[1]))
            if age_s > (_DAY_S if alive else _LEFTOVER_S):
                yield path


def _needless(root: Path) -> Iterator[tuple[Path, str, set[str]]]:
    """Every pack, newest first; why it should go ('' where it should not); its records that must be rescued first."""
    held: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for path in reversed(_packs(root)):
        pack, bad = _examine(root, path)
        if pack is None and not bad:
            continue
        if pack is None:
            yield path, "" if bad[0].foreign else f"damaged: {bad[0].why}", set()
            continue
        good = pack.records.keys() - {one.key for one in bad}
        if not good:
            yield path, f"damaged: {bad[0].why}" if bad else "empty", set()
        elif good <= held[pack.kind]:
            yield path, "superseded by newer packs", set()
        else:
            needed = good - held[pack.kind]
            held[pack.kind] |= good
            why = f"damaged: {len(bad)} of its records; {len(needed)} others are kept in a new pack" if bad else ""
            yield path, why, needed if bad else set()


def _rescue(path: Path, keys: set[str]) -> tuple[float, int, Path]:
    """Copy sound records to a new pack: its last use, size and path. Raises: OSError, Damaged, StorageError."""
    pack, data, facts = packs.read(path, path.parent.name), path.read_bytes(), path.stat()
    for key in keys:
        packs.check(pack, key, data)  # a new sha256 is made of these bytes, so they are looked at once more
    name, content = packs.build(pack.kind, {key: packs.views(pack.records[key], data) for key in sorted(keys)})
    atomic.write(path.parent / name, content)
    with contextlib.suppress(OSError):  # it then counts as used now
        os.utime(path.parent / name, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return facts.st_mtime, len(content), path.parent / name


def _examine(root: Path, path: Path) -> tuple[Pack | None, list[Badness]]:
    """Read a pack and compare every sha256 in it."""
    name = path.relative_to(root).as_posix()
    with atomic.storage(path, "cannot read"):
        try:
            pack = packs.read(path, path.parent.name)
        except FileNotFoundError:  # another process tidies too
            return None, []
        except Damaged as damage:
            return None, [Badness(name, "", str(damage), isinstance(damage, packs.Foreign))]
        bad = [Badness(name, key, why) for key, why in pack.bad.items()]
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None, []
        with file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            for key in pack.records:
                try:
                    packs.check(pack, key, buffer)
                except Damaged as damage:
                    bad.append(Badness(name, key, str(damage)))
    return pack, bad


def _remove(root: Path, path: Path, why: str, dry_run: bool) -> Removal:
    name, size = path.relative_to(root).as_posix(), 0
    try:
        size = path.stat().st_size
        if not dry_run:
            path.unlink()
    except FileNotFoundError:  # another process was faster
        return Removal(name, 0, why, done=not dry_run)
    except OSError as error:
        return Removal(name, size, f"{why}, but it cannot be removed: {error.strerror}", done=False)
    return Removal(name, size, why, done=not dry_run)


def _packs(root: Path) -> list[Path]:
    """Every pack file, each kind's oldest first."""
    found = []
    for folder in _shelves(root):
        with atomic.storage(folder, "cannot read"):
            found += [folder / name for name in packs.scan(folder) if not (folder / name).is_symlink()]
    return found


def _shelves(root: Path) -> Iterable[Path]:
    """The folders of packs, after a look at whether this is a cache at all."""
    tag = root / "CACHEDIR.TAG"
    with atomic.storage(root, "cannot read"):
        # Listed before the tag is read: who makes a cache writes the tag first.
        names = {entry.name for entry in root.iterdir()} if root.is_dir() else set()
        ours = tag.is_file() and tag.read_text(errors="replace") == TAG
    others = set() if ours else {name for name in names - _NEIGHBOURS if not atomic.TEMPORARY.match(name)}
    if others:
        raise UsageError(f"{root} is not a cache of tuner", "set TUNER_CACHE to the folder of the cache, or unset it")
    folders = [root / "packs" / kind for kind in KINDS] if ours else []
    for folder in (root / "packs", root / "memos", *folders):
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link to another place, which is left alone", "replace it by a folder")
    return [folder for folder in folders if folder.is_dir()]


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir() or folder.is_symlink():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
