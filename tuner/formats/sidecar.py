"""The files beside a LoRA that A1111 and InvokeAI read: `<name>.json` with words to use, `<name>.png` as preview."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..atomic import storage
from ..errors import DataError
from .about import AVERAGES
from .families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .about import About


def write_sidecars(folder: Path, about: About, what: str = "LoRA") -> Sequence[Path]:
    """Write the sidecars that `about` has something for; `what` is the kind of file.

    Raises: StorageError; DataError where the preview is no picture.
    """
    if about.metadata == "none":
        return [_write_preview(folder, about)] if about.preview else []
    told = folder / f"{about.name}.json"
    text = json.dumps(_fields(about, what), indent=2, ensure_ascii=False) + "\n"
    with storage(told):
        told.write_text(text, encoding="utf-8")
    return [told, _write_preview(folder, about)] if about.preview else [told]


def _fields(about: About, what: str) -> dict[str, object]:
    """Keys as A1111 and InvokeAI spell them."""
    notes = [
        f"made with tuner{f' on {about.made}' if about.made else ''}",
        f"base model: {about.base}" if about.base else "",
        f"holds {AVERAGES[about.weights]}" if about.weights in AVERAGES else "",
        f"steps: {about.facts['step']}" if "step" in about.facts else "",
    ]
    fields: dict[str, object] = {
        "description": f"{what}: {about.title}",
        "sd version": FAMILIES[about.family].sidecar,
        "activation text": about.activation,
        "preferred weight": 1.0,
        "negative text": about.negative,
        "notes": "; ".join(filter(None, notes)),
    }
    return fields | ({"date": about.made} if about.made else {})


def _write_preview(folder: Path, about: About) -> Path:
    """A copy of the preview's pixels, without what its file says of itself."""
    from PIL import Image

    assert about.preview is not None
    path = folder / f"{about.name}.png"
    try:
        with Image.open(about.preview) as source:
            pixels = source.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{about.preview.name}: the preview cannot be read as a picture: {error}") from error
    bare = Image.frombytes("RGB", pixels.size, pixels.tobytes())
    with storage(path):
        bare.save(path, format="PNG")
    return path
