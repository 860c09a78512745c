"""What of a run can be downloaded: the files that it saved and loaded back, at its end and at every save before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tuner.errors import DataError

from . import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .workspace import Workspace

TYPES: Mapping[str, str] = {
    ".safetensors": "application/octet-stream",
    ".json": "application/json",
    ".zip": "application/zip",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
}
"""By ending: what is given away, and as what. Anything else stays where it is."""
_WHOLE_MODEL = "model"


@dataclass(frozen=True, slots=True)
class Download:
    """One file of a run."""

    what: str
    """Its name in addresses, 16 hexadecimal digits; means nothing elsewhere."""
    url: str
    label: str
    """Which tools load it, or what it is; '' where the file does not tell."""
    filename: str
    """What it is called where it arrives."""
    path: Path
    bytes: int
    step: int | None
    """The save that it is from; None for what the run ended with."""


@dataclass(frozen=True, slots=True)
class Downloads:
    """All that a run gives away."""

    files: tuple[Download, ...]
    whole_models: tuple[int | None, ...]
    """The saves (None: the end) that hold a folder of a whole model, which a zip is made of by `tuner package`."""


def of(workspace: Workspace, run: str) -> Downloads:
    """The files of a run, the last ones first. Raises: UnknownId, StorageError."""
    folder = workspace.run(run)
    found: list[Download] = []
    models: list[int | None] = []
    for step, place in _places(folder):
        found += [_download(run, path, step) for path in listed.files(place) if path.suffix in TYPES]
        if listed.subfolder(place, _WHOLE_MODEL) is not None:
            models.append(step)
    return Downloads(tuple(found), tuple(models))


def find(workspace: Workspace, run: str, what: str) -> Download | None:
    """The one of that name. Raises: UnknownId, StorageError."""
    folder = workspace.run(run)
    for step, place in _places(folder):
        for path in listed.files(place):
            if path.suffix in TYPES and _what(step, path.name) == what:
                return _download(run, path, step)
    return None


def _places(run: Path) -> list[tuple[int | None, Path]]:
    """Where a run keeps what loads: `adapter/`, then `checkpoints/<step>/adapter/`, the latest step first."""
    places: list[tuple[int | None, Path]] = []
    last = listed.subfolder(run, "adapter")
    if last is not None:
        places.append((None, last))
    checkpoints = listed.subfolder(run, "checkpoints")
    names = [entry.name for entry in checkpoints.iterdir()] if checkpoints is not None else []
    for step in sorted((int(name) for name in names if name.isascii() and name.isdecimal()), reverse=True):
        folder = listed.subfolder(checkpoints, str(step)) if checkpoints is not None else None
        saved = listed.subfolder(folder, "adapter") if folder is not None else None
        if saved is not None:
            places.append((step, saved))
    return places


def address(run: str, step: int | None, name: str) -> str:
    """Where a file of a run is downloaded: `name` in `adapter/`, or in that of the save at `step`."""
    return f"/download/run/{quote(run, safe='')}/{_what(step, name)}"


def _what(step: int | None, name: str) -> str:
    return hashlib.sha256(f"{'' if step is None else step}/{name}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _download(run: str, path: Path, step: int | None) -> Download:
    facts = path.stat()
    kind, label = _told(path, facts.st_mtime_ns, facts.st_size)
    # the name of a word's file is the word itself, in other tools' prompts
    suffix = "" if step is None or kind == "textual_inversion" else f"-step-{step}"
    return Download(
        what=_what(step, path.name),
        url=address(run, step, path.name),
        label=label,
        filename=f"{path.stem}{suffix}{path.suffix}",
        path=path,
        bytes=facts.st_size,
        step=step,
    )


@lru_cache(maxsize=512)
def _told(path: Path, *_changed: int) -> tuple[str, str]:
    """Kind and label of a file, by its header; a file of another time or size is read anew."""
    if path.suffix != ".safetensors":
        return "", {".json": "settings for A1111", ".png": "preview"}.get(path.suffix, "")
    from tuner.formats.inspect import inspect_file

    try:
        facts = inspect_file(path)
    except DataError:
        return "", ""
    loads = [tool for tool, how in facts["loads_in"].items() if not how.lower().startswith(("not", "no "))]
    return facts["kind"], ", ".join(loads)
