"""The small model and the drawn pictures that ship with the package, so that every promise runs without a download."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
from typing import TYPE_CHECKING, Any

from .. import atomic
from ..cache_root import cache_root
from . import drawings, sd15, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import ModuleType

MODELS: Mapping[str, ModuleType] = {"sd15": sd15}
"""What builds the toybox model of each backbone: `write(folder)` and `configs()`."""


def folder(backbone: str) -> Path:
    """The toybox model of a backbone in diffusers' layout; built on first use, the same bytes on every machine.

    Raises: StorageError where the cache cannot be written.
    """
    return _built(f"{backbone}-toybox", (MODELS[backbone], words), MODELS[backbone].write)


def configs(backbone: str) -> dict[str, dict[str, Any]]:
    """The configuration of each component of a toybox model; builds nothing and imports no torch."""
    return MODELS[backbone].configs()


def pictures() -> Path:
    """A folder of five drawn photos of one subject, in different shapes."""
    return _built("pictures-toybox", (drawings,), drawings.write)


def _built(name: str, sources: tuple[ModuleType, ...], write: Callable[[Path], None]) -> Path:
    """The folder that `write` makes, addressed by the code that makes it; safe for concurrent starts."""
    digest = hashlib.sha256("".join(inspect.getsource(source) for source in sources).encode()).hexdigest()[:12]
    target = cache_root() / "toybox" / f"{name}-{digest}"
    if target.is_dir():
        return target
    with atomic.storage(target):
        _tag(target.parent.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = atomic.temporary(target)
        scratch.mkdir()
        try:
            write(scratch)
            atomic.sync_tree(scratch)
            os.rename(scratch, target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same bytes
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _tag(root: Path) -> None:
    """Mark the cache directory as one, so that backups pass it over and `tuner cache gc` knows it."""
    from ..data.cache import TAG

    if not (root / "CACHEDIR.TAG").is_file():
        atomic.write(root / "CACHEDIR.TAG", TAG)
