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
        strength: 1.0 is what was trained, 0.0 nothing.
        name: the adapter's name in the pipeline; None makes one of the file's.

    Raises: DataError where a file is broken, of no known kind, or for another base, each with the reason; UsageError
        where the name is taken or the strength no number.
    """
    if not math.isfinite(strength):
        raise UsageError(f"strength {strength} is not a number")
    if name is not None and (not name or "." in name):
        raise UsageError(f"an adapter cannot be named {name!r}", "give a `name` without a dot")
    loaded: list[Callable[[], None]] = []
    try:
        for file in find_files(Path(path)):
            header = read_header(file)
            loaded.append(kind_of(header).load(pipe, file, header, strength, name or name_of(file)))
    except TunerError:
        for take_off in reversed(loaded):
            take_off()
        raise
