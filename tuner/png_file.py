"""A drawn picture as a PNG file that says how it was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from .sampling import Shot


def write_picture(file: Path, picture: Image, shot: Shot, adapters: Sequence[str]) -> None:
    """One PNG, whole or not at all, with its settings in the text chunk that other tools read. Raises: StorageError."""
    from io import BytesIO

    from PIL.PngImagePlugin import PngInfo

    from . import atomic

    facts: dict[str, Any] = {
        "Steps": shot.steps,
        "Sampler": shot.scheduler,
        "CFG scale": shot.guidance,
        "Seed": shot.seed,
        "Size": "x".join(map(str, shot.size)),
    }
    if adapters:
        facts["Adapters"] = " ".join(adapters)
    told = ", ".join(f"{key}: {value}" for key, value in facts.items())
    info = PngInfo()
    info.add_text("parameters", f"{shot.prompt}\nNegative prompt: {shot.negative}\n{told}")
    data = BytesIO()
    picture.save(data, format="PNG", pnginfo=info)
    with atomic.storage(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(file, data.getvalue())
