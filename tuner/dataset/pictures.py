"""From the bytes of a dropped picture to the files that a dataset keeps of it, all of them encoded here.

The original is not kept: it may hold the place where it was taken, a second picture, or a script behind the pixels.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from PIL import Image

from ..atomic import storage
from ..data import images
from . import likeness, names
from .record import Picture, fresh_id

if TYPE_CHECKING:
    from pathlib import Path

THUMB_SIDE = 256
"""Longest side of a thumbnail, in pixels."""
EXACT_PIXELS = 2**22
"""Up to 4 MP every picture is kept as PNG, pixel by pixel. Beyond, one that came in a lossy format becomes a JPEG:
training reduces it to a fraction of its side, and a PNG of a 12 MP photo has 25 MB."""
JPEG_QUALITY = 95
_LOSSY = ("JPEG", "HEIF", "AVIF", "WEBP")
_ALPHA_NOTE = "its transparent parts are white now"


def make(data: bytes, name: str, folder: Path) -> Picture:
    """Judge and decode a picture whole, and write `<id>.png` or `<id>.jpg` and the thumbnail `<id>.webp` to `folder`.

    Args:
        data: the bytes that came.
        name: what they were called.
        folder: where both files go, fsynced.

    Raises: DataError with the reason, as `tuner.data.images`; StorageError.
    """
    label = names.display(name)
    header = images.read_header(data, label)
    decoded = images.decode(data, label, "white")
    notes = header.notes
    if header.transparent and decoded.tobytes() != images.decode(data, label, "black").tobytes():
        notes = (*notes, _ALPHA_NOTE)
    size, pixels = decoded.size, decoded.tobytes()
    del decoded  # a picture of 64 MP takes 200 MB, each time
    digest = hashlib.sha256(b"%dx%d:" % size)
    digest.update(pixels)
    image = Image.frombytes("RGB", size, pixels)  # nothing of the file but its pixels
    del pixels
    id = fresh_id()
    ending = ".jpg" if header.format in _LOSSY and image.width * image.height > EXACT_PIXELS else ".png"
    small = thumbnail(image)
    size_bytes = _save(image, folder / f"{id}{ending}")
    _save(small, folder / f"{id}.webp")
    return Picture(
        id=id,
        ending=ending,
        name=label,
        key=names.key(name),
        suffix=names.suffix(name),
        width=image.width,
        height=image.height,
        bytes=size_bytes,
        source=header.format,
        pixels=digest.hexdigest(),
        dhash=likeness.dhash(small),
        tiny=likeness.tiny(small),
        sharpness=round(likeness.sharpness(image), 4),
        notes=notes,
    )


def thumbnail(image: Image.Image) -> Image.Image:
    """As small as is needed, and never larger than the picture."""
    size = likeness.within(image.size, THUMB_SIDE)
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def make_thumbnail(source: Path, target: Path) -> None:
    """The thumbnail of a picture that a dataset holds. Raises: DataError, StorageError."""
    with storage(source, "cannot read"):
        data = source.read_bytes()
    scratch = target.with_name(f".{target.name}.{fresh_id()}")
    _save(thumbnail(images.decode(data, source.name, "white")), scratch, kind="WEBP")
    with storage(target):
        os.replace(scratch, target)


def _save(image: Image.Image, path: Path, kind: str = "") -> int:
    """Write and fsync one file; gives its size in bytes. Raises: StorageError."""
    kind = kind or {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[path.suffix]
    with storage(path), path.open("xb") as file:
        if kind == "PNG":
            image.save(file, kind, compress_level=4)
        elif kind == "JPEG":
            image.save(file, kind, quality=JPEG_QUALITY, subsampling=0)
        else:
            image.save(file, kind, quality=80, method=3)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
