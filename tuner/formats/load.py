"""A saved adapter into a pipeline of yours, whatever its kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TunerError, UsageError
from .container import read_header
from .find import find_files, kind_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline


def load_adapter(pipe: DiffusionPipeline, path: str | Path, strength: float = 1.0, name: str | None = None) -> None:
    """Load an adapter into a pipeline and switch it on, beside those that are on already.

    What the file is (a LoRA, a textual inversion ...) is read from it. A folder of several kinds, as pivotal tuning
    leaves, is loaded whole or not at all.

    Args:
        pipe: a pipeline for Stable Diffusion 1.5, 3.5 or 3.
        path: a `.safetensors` file, a run's `adapter/` folder, or a run directory.
        strength: 1.0 is what was trained, 0.0 nothing. A new word has none: it is taught at 1 alone, and beside a LoRA
            in one folder the strength is the LoRA's.
        name: the adapter's name in the pipeline; None makes one of the file's.

    Raises: DataError where a file is broken, of no known kind, or for another base, each with the reason; UsageError
        where the name is taken or the strength no number.
    """
    put_in(pipe, path, strength, name)


def put_in(
    pipe: DiffusionPipeline, path: str | Path, strength: float = 1.0, name: str | None = None
) -> Callable[[], None]:
    """As `load_adapter`; gives what takes it off again, after which the pipeline is as it was."""
    if not math.isfinite(strength):
        raise UsageError(f"strength {strength} is not a number")
    if name is not None and (not name or "." in name):
        raise UsageError(f"an adapter cannot be named {name!r}", "give a `name` without a dot")
    headers = {file: read_header(file) for file in find_files(Path(path))}
    kinds = {file: kind_of(header) for file, header in headers.items()}
    if strength != 1 and not any(kind.scales for kind in kinds.values()):
        file, kind = next(iter(kinds.items()))
        raise UsageError(
            f"{file} is {kind.label}, which has no strength such as {strength:g}",
            "load it at 1, and say in the prompt how much of it you want",
        )
    loaded: list[Callable[[], None]] = []
    try:
        for file, kind in kinds.items():
            loaded.append(kind.load(pipe, file, headers[file], strength, name or name_of(file)))
    except TunerError:
        for take_off in reversed(loaded):
            take_off()
        raise

    def take_all_off() -> None:
        for take_off in reversed(loaded):
            take_off()

    return take_all_off


def set_strength(pipe: DiffusionPipeline, path: str | Path, name: str, strength: float) -> bool:
    """Let what was loaded from `path` under this name act more or less, as if it had been loaded at that strength.

    Returns: whether every file of it could be changed where it is; the others have to be loaded again.
    """
    kinds = {kind.name: kind for kind in (kind_of(read_header(file)) for file in find_files(Path(path)))}
    return all(kind.set_strength(pipe, name, strength) for kind in kinds.values() if kind.scales)
