"""Pictures that show how a run is doing: the same noise every time, training's randomness untouched."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import atomic
from .sampling import Shot, paint

if TYPE_CHECKING:
    from PIL.Image import Image

    from .recipe import Recipe
    from .student import Student
    from .training import Training


def shots(recipe: Recipe) -> list[Shot]:
    """What the recipe's sample section asks for, one a prompt."""
    sample, own = recipe.sample, recipe.backbone.habits()
    side = sample.size or recipe.data.resolution
    steps = sample.steps or own.steps
    guidance = own.guidance if sample.guidance is None else sample.guidance
    return [
        Shot(prompt, sample.negative, sample.seed + i, (side, side), steps, guidance, sample.scheduler)
        for i, prompt in enumerate(sample.prompts)
    ]


@contextmanager
def at_rest(training: Training) -> Iterator[None]:
    """Within it the model is what the run would save: averaged weights where there are some, no dropout.

    The raw weights and modes are back, bit for bit, afterwards, and torch's own generators too.
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        if training.average:
            stack.enter_context(training.average.swapped_in())
        for attachment in training.attachments:
            attachment.train(on=False)
        try:
            yield
        finally:
            for attachment in training.attachments:
                attachment.train(on=True)


def draw(recipe: Recipe, student: Student, training: Training, folder: Path) -> list[tuple[str, Path]]:
    """Draw every prompt into `folder` as `<prompt index>.png`; gives (prompt, file)."""
    wanted = shots(recipe)
    with at_rest(training):
        pictures = paint(student.model, wanted, objective=student.objective)
    files = [write_png(folder / f"{i}.png", picture) for i, picture in enumerate(pictures)]
    return [(shot.prompt, file) for shot, file in zip(wanted, files, strict=True)]


def write_png(path: Path, picture: Image) -> Path:
    """Write a picture whole or not at all, without metadata."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    atomic.write(path, buffer.getvalue(), durable=False)
    return path


def drawn(folder: Path, step: int) -> bool:
    """Whether every sample of a step is there; their index is written last."""
    return (folder / str(step) / "index.jsonl").is_file()


def latest(folder: Path, prompts: Sequence[str]) -> Path | None:
    """The newest sample of the first prompt, if there is one."""
    if not prompts or not folder.is_dir():
        return None
    steps = sorted((int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()), reverse=True)
    return next((path for step in steps if (path := folder / str(step) / "0.png").is_file()), None)
