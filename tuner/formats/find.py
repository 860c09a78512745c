"""Which adapter files lie at a path, and of which kind each is: the one table of kinds. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .container import read_header
from .hypernetwork import ENDING
from .hypernetwork_kind import HypernetworkKind
from .lora_kind import DIFFUSERS_FILE, LoRAKind
from .lycoris_kind import LycorisKind
from .model_kind import ModelKind
from .word_kind import WordKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .container import Header
    from .file_kind import FileKind

KINDS: Sequence[FileKind] = (
    HypernetworkKind(),
    ModelKind(),
    WordKind(),
    LycorisKind("loha"),
    LycorisKind("lokr"),
    LoRAKind(),
)
"""Every kind of adapter file, asked in this order. The last claims whatever nobody else did, and names the fault."""
PICKLES = {".pt", ".bin", ".ckpt", ".pth", ".pkl"}
"""Endings of files that run code when they are loaded."""


def kind_of(header: Header) -> FileKind:
    """The kind of a file, by its header."""
    return next(kind for kind in KINDS if kind.claims(header))


def find_files(path: Path) -> list[Path]:
    """The adapter files to load at `path`: the file itself, or those that a run left in the folder, kind by kind.

    Pivotal tuning leaves two kinds, so a folder may hold several.

    Raises: DataError.
    """
    path = path.expanduser()
    if path.suffix.lower() in PICKLES:
        raise DataError(
            f"{path}: {path.suffix} files can run code when they are loaded, so they are refused",
            "ask its maker for a .safetensors file; `tuner import FILE` makes one of an adapter, and runs nothing",
        )
    try:
        if path.is_file():
            return [path]
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # a name that the system takes for none
        raise DataError(f"{path}: cannot be looked at: {error}") from error
    if not folder:
        raise DataError(f"{path}: is no plain file" if there else f"{path}: no such file or folder")
    for place in (path, path / "adapter"):
        if found := _in_folder(place):
            return found
    saved = sorted(path.glob("checkpoints/*/adapter/*.safetensors"), key=lambda file: (len(file.parts[-3]), file))
    if saved:
        raise DataError(f"{path}: this run is not finished", f"take its newest save, {saved[-1].parent}")
    raise DataError(f"{path}: holds no {DIFFUSERS_FILE}", "give the .safetensors file itself")


def find_file(path: Path, kind: str = "") -> Path:
    """The adapter file at `path`; of a folder with several kinds the one named, else the first. Raises: DataError."""
    files = find_files(path)
    return next((file for file in files if len(files) > 1 and kind_of(read_header(file)).name == kind), files[0])


def _in_folder(folder: Path) -> list[Path]:
    """The files to load, by kind in the table's order. Raises: DataError where one cannot be read."""
    by_kind: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        by_kind.setdefault(kind_of(read_header(file)).name, []).append(file)
    return [file for kind in KINDS for file in kind.chosen(by_kind.get(kind.name, ()))]


def name_of(file: Path) -> str:
    """What to call the adapter in a file: the file's own name, or the run's where a run gave it none of its own."""
    folders = [part.name for part in file.resolve().parents if part.name != "adapter"]
    own = file.name.removesuffix(ENDING) if file.name.endswith(ENDING) else file.stem
    stem = folders[0] if file.name == DIFFUSERS_FILE and folders else own
    return re.sub(r"\W+", "_", stem).strip("_") or "adapter"
