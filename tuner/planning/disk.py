"""How much disk a run takes, and whether it is there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PNG_BYTES_A_PIXEL = 2.0
"""Upper estimate for generated pictures."""
MARGIN = 200 * 10**6
"""Left free for everything else, in bytes."""


@dataclass(frozen=True, slots=True)
class Place:
    """One directory that the run writes to."""

    name: str
    """`run` or `cache`."""
    path: Path
    parts: Mapping[str, int]
    """Bytes by what takes them."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def free(self) -> int | None:
        """Free bytes where the directory is or would be; None where the system does not say."""
        return shutil.disk_usage(existing(self.path)).free

    def filesystem(self) -> int:
        return os.stat(existing(self.path)).st_dev


def existing(path: Path) -> Path:
    """The directory, or its nearest parent that exists."""
    path = path.expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def shortages(places: Sequence[Place]) -> list[str]:
    """One line for each filesystem that is too small for all that goes there."""
    by_filesystem: dict[int, list[Place]] = {}
    for place in places:
        by_filesystem.setdefault(place.filesystem(), []).append(place)
    lines = []
    for members in by_filesystem.values():
        need, free = sum(place.total for place in members), members[0].free()
        if free is not None and need + MARGIN > free:
            where = " and ".join(f"{place.path} ({place.name})" for place in members)
            lines.append(f"disk: {where} needs {size(need)} and {size(free)} is free")
    return lines


def size(count: float) -> str:
    """Bytes for a person: '1.5 GB', '12 MB', '900 B' (powers of ten)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            value = count / scale
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{int(count)} B"
