"""The small model and the drawn pictures that ship with the package, so that every promise runs without a download."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..cache_root import cache_root
from ..errors import StorageError
from . import drawings, sd15, words

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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            write(temporary)
            temporary.chmod(0o755)  # mkdtemp's is for one user alone
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same bytes
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"{target}: cannot be written: {error.strerror or error}",
            "free some space, or set TUNER_CACHE to a writable folder",
        ) from error
    return target
