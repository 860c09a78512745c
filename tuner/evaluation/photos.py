"""What a run learned from: its photos as the run read them, and the captions of subject and class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import images
from ..data.scan import scan, scan_folder
from ..errors import DataError
from ..watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from ..data.scan import Example
    from ..recipe import Recipe

INSTANCE, PRIOR = "instance", "prior"
MOST = 200
"""Photos that are compared with; the first of many."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run was shown."""

    photos: Sequence[Image]
    subject: str | None
    plain: str | None


def learned_from(recipe: Recipe, elsewhere: Path | None) -> Learned:
    """The subject's photos and captions; nothing where the task has no instance role.

    Args:
        recipe: of the run.
        elsewhere: a folder to take the photos from instead.

    Raises: DataError where they are not there any more, or none can be read.
    """
    sources = recipe.sources
    if INSTANCE not in sources:
        return Learned((), None, None)
    source = sources[INSTANCE][0]
    if elsewhere is not None:
        found = scan_folder(elsewhere, source, INSTANCE, recipe.data, watcher=Watcher()).examples[INSTANCE]
    else:
        found = _scanned(recipe)
    photos = [images.decode(example.read(), example.name, recipe.data.background) for example in found[:MOST]]
    captions = [caption for example in found for caption in example.captions]
    plain = next((prior.caption for prior in sources.get(PRIOR, ()) if prior.caption), None)
    return Learned(photos, source.caption or next(iter(captions), None), plain)


def _scanned(recipe: Recipe) -> Sequence[Example]:
    try:
        return scan(recipe, decode=False, watcher=Watcher()).examples[INSTANCE]
    except DataError as error:
        raise DataError(error.message, "say where the photos are now: --photos FOLDER") from error
