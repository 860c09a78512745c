"""What a run learned from: its photos as the run read them, and the captions of subject and class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import images
from ..data.scan import scan, scan_folder
from ..errors import DataError, UsageError
from ..watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from ..data.scan import Example, Scan
    from ..data.sources import Source
    from ..recipe import Recipe

INSTANCE, PRIOR, IMAGES = "instance", "prior", "images"
MOST = 200
"""Photos that are compared with; the first of many."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run was shown."""

    photos: Sequence[Image]
    subject: str | None
    plain: str | None
    notes: tuple[str, ...] = ()
    """What was left out, and why."""
    captions: tuple[str, ...] = ()
    """Distinct captions of the photos, where these show a style or a theme and no one subject."""


def learned_from(recipe: Recipe, elsewhere: Path | None, subject: str | None = None) -> Learned:
    """The subject's photos and captions.

    Args:
        recipe: of the run.
        elsewhere: a folder to take the photos from instead.
        subject: its caption, where the caller knows better than the recipe. A task without an instance role (pictures
            of a style, captioned pictures) has a subject only where it is named here; its photos are then all it
            learned from.

    Raises: DataError where the photos are not there any more, or none can be read; UsageError where it is not clear
        which they are.
    """
    sources = recipe.sources
    role = INSTANCE if INSTANCE in sources else next(iter(recipe.task.sources))
    if role == IMAGES and subject is None:
        return _described(recipe, elsewhere)
    if role != INSTANCE and subject is None:
        if elsewhere is not None:
            raise UsageError("--photos has nothing to be compared with", "say what they show: --subject CAPTION")
        return Learned((), None, None)
    chosen, notes = _choose(sources[role], subject, elsewhere)
    source = sources[role][chosen]
    found = _scanned(recipe, role, source, elsewhere, subject)
    # A source of pairs gives the pictures of two roles, of which the first is what was liked.
    examples = found.examples.get(role) or found.examples[recipe.task.roles(sources)[0].name]
    notes += _left_out(found, len(examples))
    captions = [caption for example in examples for caption in example.captions]
    return Learned(
        _decoded(recipe, examples),
        subject or next(iter(source.spoken), None) or next(filter(None, captions), None),
        _plain(sources.get(PRIOR, ()), chosen, len(sources[role])),
        tuple(notes),
    )


def _described(recipe: Recipe, elsewhere: Path | None) -> Learned:
    """The pictures of a style or a theme, and how they are captioned; none where they cannot be found any more."""
    photos: list[Image] = []
    captions: dict[str, None] = {}
    notes: list[str] = []
    for source in recipe.sources[IMAGES]:
        try:
            found = _scanned(recipe, IMAGES, source, elsewhere, None)
        except DataError as error:
            if elsewhere is not None:
                raise
            return Learned((), None, None, (f"likeness to the training pictures: {error.message}; {error.hint}",))
        examples = found.examples[IMAGES]
        notes += _left_out(found, len(examples))
        captions |= dict.fromkeys(caption for example in examples for caption in example.captions if caption)
        photos += _decoded(recipe, examples[: MOST - len(photos)])
    return Learned(photos, None, None, tuple(notes), tuple(captions))


def _left_out(found: Scan, count: int) -> list[str]:
    notes = []
    if count > MOST:
        notes.append(f"likeness to {count - MOST} of {count} photos: the first {MOST} are compared with")
    return notes + [f"likeness to {refused.name}: {refused.reason}" for refused in found.refused]


def _decoded(recipe: Recipe, examples: Sequence[Example]) -> list[Image]:
    return [images.decode(example.read(), example.name, recipe.data.background) for example in examples[:MOST]]


def _choose(sources: Sequence[Source], subject: str | None, elsewhere: Path | None) -> tuple[int, list[str]]:
    """Which of several subjects is meant, and what is to be said of the others."""
    if len(sources) == 1:
        return 0, []
    captions = [source.caption for source in sources]
    named = "; ".join(caption or "(captions of their own)" for caption in captions)
    if subject is None:
        return 0, [f"the other subjects of this run: --subject CAPTION takes one of them ({named})"]
    if subject in captions:
        return captions.index(subject), []
    if elsewhere is None:
        raise UsageError(
            f"this run learned several subjects, none of them {subject!r}",
            f"--subject takes one of: {named}; or say where its photos are: --photos FOLDER",
        )
    return 0, []


def _plain(priors: Sequence[Source], chosen: int, subjects: int) -> str | None:
    """The class's caption: that at the subject's own place where there are as many, else the first."""
    if not priors:
        return None
    return priors[chosen if len(priors) == subjects else 0].caption


def _scanned(recipe: Recipe, role: str, source: Source, elsewhere: Path | None, subject: str | None) -> Scan:
    """The pictures of one source, as a run finds them."""
    if elsewhere is not None:
        given = source.model_copy(update={"caption": source.caption or subject or role})
        return scan_folder(elsewhere.expanduser(), given, role, recipe.data, watcher=Watcher(), label="--photos")
    others = dict.fromkeys(recipe.sources)
    data = recipe.data.model_copy(update={**others, role: (source,)})
    # Which pictures a share holds out depends on all that are there; those of its own are no concern here.
    shared = recipe.validation and recipe.validation.hold_out and len(recipe.sources[role]) == 1
    changes = {"data": data, "validation": recipe.validation if shared else None}
    try:
        return scan(recipe.model_copy(update=changes), decode=False, watcher=Watcher())
    except DataError as error:
        raise DataError(error.message, "say where the photos are now: --photos FOLDER") from error
