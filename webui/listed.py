"""From a name that a client sent to an entry of a folder, by listing: it is compared, never part of a path."""

from __future__ import annotations

import os
from pathlib import Path

from tuner import atomic


def file(folder: Path, name: str) -> Path | None:
    """The regular file of that name; None for none, for hidden and half-written ones, links. Raises: StorageError."""
    found = _entry(folder, name)
    return Path(found.path) if found is not None and found.is_file(follow_symlinks=False) else None


def subfolder(folder: Path, name: str) -> Path | None:
    """The folder of that name; None for none, for hidden ones, and for links. Raises: StorageError."""
    found = _entry(folder, name)
    return Path(found.path) if found is not None and found.is_dir(follow_symlinks=False) else None


def files(folder: Path) -> list[Path]:
    """The regular files in a folder, in order; none where it is a link or no folder. Raises: StorageError."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    with atomic.storage(folder, "cannot read"), os.scandir(folder) as entries:
        found = [one.path for one in entries if not one.name.startswith(".") and one.is_file(follow_symlinks=False)]
    return [Path(path) for path in sorted(found)]


def _entry(folder: Path, name: str) -> os.DirEntry[str] | None:
    if name.startswith(".") or folder.is_symlink() or not folder.is_dir():
        return None
    with atomic.storage(folder, "cannot read"), os.scandir(folder) as entries:
        return next((entry for entry in entries if entry.name == name), None)
