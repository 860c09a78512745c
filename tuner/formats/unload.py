"""A loaded adapter out of a pipeline again, whatever its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from .find import KINDS

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline


def unload_adapter(pipe: DiffusionPipeline, name: str) -> None:
    """Take off what `load_adapter` put into a pipeline under this name; the other adapters stay as they are.

    Raises: UsageError where nothing of that name is there that can be taken off.
    """
    taken = [kind.name for kind in KINDS if kind.unload(pipe, name)]
    if not taken:
        raise UsageError(
            f"the pipeline has no adapter named {name!r} that can be taken off",
            "it is the `name` that load_adapter was given; a whole model stays, for the base's weights gave way to it",
        )
