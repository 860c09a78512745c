"""The bundled photos cut to different shapes, so that a run has several buckets."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps

from tuner import toybox

SHAPES = ((256, 256), (256, 192), (192, 256), (256, 256), (230, 192))


@cache
def shaped() -> Path:
    """A folder of five pictures in four shapes; cut, never resized, so that their pixels are the same everywhere."""
    folder = Path(tempfile.mkdtemp(prefix="photos-"))
    for path, size in zip(sorted(toybox.pictures().glob("*.png")), SHAPES, strict=True):
        with Image.open(path) as picture:
            picture.crop((0, 0, *size)).save(folder / path.name)
    return folder


@cache
def paired() -> Path:
    """The same pictures as `chosen`, and with their colours turned round as `rejected`."""
    folder = Path(tempfile.mkdtemp(prefix="pairs-"))
    for name in ("chosen", "rejected"):
        (folder / name).mkdir()
    for path in sorted(shaped().glob("*.png")):
        with Image.open(path) as picture:
            seen = picture.convert("RGB")
        seen.save(folder / "chosen" / path.name)
        ImageOps.invert(seen).save(folder / "rejected" / path.name)
    return folder
