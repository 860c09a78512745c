"""Which backbone a model is for, from what lies beside its weights: model_index.json, or the keys of a single file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import UsageError
from .base import Backbone
from .download import cached_folder, locate

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX = "model_index.json"


def recognise(model: str) -> str | None:
    """The name of the backbone that a folder, single file or Hub id is for; None where nothing tells.

    Of a Hub id that is not on this machine, model_index.json alone is fetched.

    Raises: UsageError where it is a model that there is no backbone for; DataError where it cannot be looked at.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return _of_file(path)
    folder = path if path.is_dir() else cached_folder(model, None) or locate(model, None, [INDEX], key="--base")
    if not (folder / INDEX).is_file():
        return None
    from .loading import read_json

    pipeline = str(read_json(folder / INDEX).get("_class_name"))
    for name, kind in _kinds():
        if kind.pipelines and re.fullmatch(kind.pipelines, pipeline):
            return name
    known = ", ".join(name for name, _ in _kinds())
    raise UsageError(
        f"{model} is a model for {pipeline}, which there is no backbone for",
        f"there is {known}; --backbone takes one of them if this model has its layout all the same",
    )


def _of_file(path: Path) -> str | None:
    from ..formats.container import read_header

    if path.suffix != ".safetensors":
        return None  # who loads it says why not
    keys = read_header(path).tensors
    marked = [name for name, kind in _kinds() if kind.file_mark and any(kind.file_mark in key for key in keys)]
    return marked[0] if len(marked) == 1 else None


def _kinds() -> Iterator[tuple[str, type[Backbone]]]:
    for name, kind in Backbone.family.items():
        yield name, cast("type[Backbone]", kind)
