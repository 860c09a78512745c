"""How much one dropped file may be."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PICTURES = 10_000
"""Of one dataset."""
MAX_TABLE_BYTES = 2**24
"""Of metadata.jsonl or metadata.csv: 16 MiB."""
MAX_TEXT_BYTES = 2**16
"""Of a caption file that is read at all; what a caption may hold is less."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused for its size. The numbers are for files that somebody else sends."""

    file_bytes: int = 64 * 2**20
    """Of one picture."""
    zip_bytes: int = 2 * 2**30
    """Of a zip as it comes."""
    zip_files: int = 2000
    """In one zip."""
    zip_ratio: float = 100.0
    """Size of a file in a zip over what it takes in there."""
    expanded_bytes: int = 2 * 2**30
    """Of all files in a zip, unpacked."""
    room_bytes: int | None = None
    """By how much the dataset may grow; None for as much as the disk has."""
    workers: int = 2
    """Pictures of one zip or folder that are decoded at a time; the largest take several hundred MB."""


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB" if size_bytes < 2**30 else f"{size_bytes / 2**30:.1f} GiB"
