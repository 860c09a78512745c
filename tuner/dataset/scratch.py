"""Where new files wait until they belong to a dataset: a folder a writer, held by a lock that dies with it."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

from .. import atomic
from .exclusive import attempt
from .record import fresh_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .store import Dataset


@contextlib.contextmanager
def scratch(dataset: Dataset) -> Iterator[Path]:
    """A folder of one's own in `.incoming`, gone afterwards. What dead writers left there goes first.

    Raises: UsageError where the dataset is gone; StorageError, LockedError.
    """
    with dataset.changing(), atomic.storage(dataset.incoming):
        dataset.incoming.mkdir(exist_ok=True)
        sweep(dataset.incoming)
        folder = dataset.incoming / fresh_id()
        folder.mkdir()
        held = attempt(folder / ".lock")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def sweep(incoming: Path) -> None:
    """Remove the folders of writers that are no more. Only while the dataset is held. Raises: OSError."""
    for folder in sorted(incoming.iterdir()):
        if not folder.is_dir() or folder.is_symlink():
            folder.unlink(missing_ok=True)
            continue
        try:
            held = attempt(folder / ".lock")
        except atomic.StorageError:
            if folder.exists():
                raise
            continue  # its writer ended just now
        if held is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)
