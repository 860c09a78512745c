"""What a run has saved so far: its adapter folder, those of its checkpoints, and the files in them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .atomic import storage
from .errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

FINAL = "final"
"""What the adapter of a finished run is called beside its checkpoints' steps."""
RESOLVED = "resolved.yaml"
"""What every run directory holds."""
_STEP = re.compile(r"0|[1-9][0-9]{0,11}", re.ASCII)


def saved_steps(run: Path) -> list[int]:
    """Steps whose adapter files are there, ascending. Raises: StorageError."""
    folder = run / "checkpoints"
    with storage(folder, "cannot read"):
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if _STEP.fullmatch(name) and (folder / name / "adapter").is_dir())


def adapter_folder(run: Path, step: int | None) -> Path:
    """The folder that the run left at the end, or the one of a checkpoint.

    Args:
        run: the run directory.
        step: None for the end.

    Raises: UsageError naming the steps that are there.
    """
    folder = run / "adapter" if step is None else run / "checkpoints" / str(step) / "adapter"
    if folder.is_dir():
        return folder
    steps = ", ".join(map(str, saved_steps(run)))
    if step is None:
        hint = f"take what it saved on the way: {steps}" if steps else "let it reach a save, or finish"
        raise UsageError(f"{run} is not finished: it has no adapter/", hint)
    there = f"there is {steps}" if steps else "nothing was saved yet"
    raise UsageError(f"{run} has no adapter of step {step}", there)


def files_of(folder: Path) -> list[Path]:
    """Every file of an adapter folder, relative to it, in order of name; what file managers leave there is left out.

    Raises: DataError for anything but plain files and folders, for a link might lead anywhere; StorageError.
    """
    with storage(folder, "cannot read"):
        return sorted(_walk(folder, Path()), key=lambda path: path.parts)


def _walk(top: Path, place: Path) -> Iterator[Path]:
    with os.scandir(top / place) as entries:
        for entry in entries:
            path = place / entry.name
            if entry.name.startswith(".") or entry.name in ("Thumbs.db", "desktop.ini"):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(top, path)
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                raise DataError(
                    f"{top / path} is a link or no file, which is not handed on", "put the file itself there"
                )


def title_of(run: Path, step: int | None) -> str:
    """What to call the outcome in a file's name."""
    name = run.resolve().name
    return name if step is None else f"{name}-{step}"


def run_of(path: Path) -> Path | None:
    """The run that a path is, or that saved the folder or file there; None where it is of no run."""
    path = path.resolve()
    folder = path.parent if path.is_file() else path
    places = [folder]
    if folder.name == "adapter":
        places += [folder.parent, *([folder.parents[2]] if folder.parent.parent.name == "checkpoints" else [])]
    return next((place for place in places if (place / RESOLVED).is_file()), None)


def called(path: Path, checkpoint: int | str | None = None) -> str:
    """What to call an adapter where pictures are told of: `dog`, `dog@200`, or the name of its file; never a path.

    Args:
        path: a run, its saved folder, or a file.
        checkpoint: which save of a run; None says it with the path, or stands for the end.
    """
    run, path = run_of(path), path.resolve()
    if run is None or path.is_file():
        return path.name
    if checkpoint is None and path.parent.parent.name == "checkpoints":
        checkpoint = path.parent.name
    return run.name if checkpoint in (None, FINAL) else f"{run.name}@{checkpoint}"
