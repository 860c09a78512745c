"""The first run of a newcomer: a bundled subject is taught to the small model, and shown before and after."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError
from .recipe_file import open_recipe
from .toybox.bundled import BUNDLES, CLASS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .recipe_file import Reading
    from .watch import Watcher


@dataclass(frozen=True, slots=True)
class Course:
    """What is taught, and what the same takes with the real model."""

    recipe: str
    """The shipped recipe of the real model, which is rehearsed."""
    real: str
    """The real model's name."""
    takes: str
    """What it takes."""
    tools: str
    """Who reads the files."""


COURSES: Mapping[str, Course] = {
    "sd15": Course(
        "dreambooth_lora",
        "Stable Diffusion 1.5",
        "a download of about 4 GB; a GPU with 8 GB or more",
        "diffusers, A1111 and ComfyUI",
    ),
    "sd35": Course(
        "dreambooth_lora_sd35_medium",
        "Stable Diffusion 3.5 medium",
        "its licence to accept; a download of about 16 GB; a GPU with 16 GB or more",
        "diffusers and ComfyUI",
    ),
}
"""By backbone; the first is taken where none is named."""
PICTURE = "before_after.png"
SUBJECT, PLAIN = f"sks {CLASS}", f"a {CLASS}"
PROMPTS = (
    f"a photo of {SUBJECT}",
    f"a photo of {SUBJECT} in the snow",
    f"a photo of {SUBJECT} on a blue background",
    f"a photo of {PLAIN}",
    "a photo of a house",
)
"""The subject, the subject where it never was, its class, and something else."""
SEEDS = (1, 2, 3)
"""Pictures of each prompt, before and after from the same noise."""
SAMPLER_STEPS, GUIDANCE = 20, 4.0
"""Less guidance than the toybox is usually drawn with, so that what was learned shows beside what was asked."""
BATCH = 5


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a quickstart left behind."""

    run_dir: Path
    adapter: Path
    """The folder with the verified files."""
    picture: Path
    """Prompts x {before, after}."""
    step: int
    """Optimizer steps done."""


def course(backbone: str | None) -> Course:
    """What is taught on a backbone. Raises: UsageError where nothing is."""
    if backbone is None:
        return next(iter(COURSES.values()))
    if backbone not in COURSES:
        raise UsageError(f"no quickstart for {backbone!r}", f"there is {', '.join(COURSES)}")
    return COURSES[backbone]


def reading(changes: Sequence[str] = (), backbone: str | None = None) -> Reading:
    """The DreamBooth recipe on the small model and the bundled subject, whatever lies in the working directory.

    Args:
        changes: to the recipe, as `key=value`.
        backbone: whose small model; None is the first of COURSES.

    Raises: RecipeError; UsageError where there is no quickstart for this backbone.
    """
    bundle = BUNDLES["instance"]
    said = {
        "data.instance.path": str(bundle.folder),
        **{f"data.{role}.caption": caption for role, caption in bundle.captions.items()},
        "sample.prompts": list(bundle.prompts),
    }
    return open_recipe(
        course(backbone).recipe,
        [*(f"{key}={json.dumps(value)}" for key, value in said.items()), *changes],
        rehearse=True,
    )


def teach(lesson: Reading, run_dir: Path | None, watchers: Sequence[Watcher]) -> Lesson:
    """Train, then draw the picture.

    Args:
        lesson: from `reading`.
        run_dir: where; None makes a new `runs/quickstart-<n>`.
        watchers: who sees it. The first is told of the drawing, too.

    Raises: as `engine.run`; StorageError where the picture cannot be written.
    """
    from .engine import run

    done = run(lesson.recipe, run_dir=run_dir, watchers=watchers, given=lesson.given, name="quickstart")
    picture = done.run_dir / PICTURE
    _show(lesson, done.adapter, picture, watchers[0])
    return Lesson(done.run_dir, done.adapter, picture, done.step)


def _show(lesson: Reading, adapter: Path, picture: Path, watcher: Watcher) -> None:
    """Draw every prompt without and with the adapter, from the same noise, onto one sheet."""
    from .contact_sheet import contact_sheet
    from .drawing import Drawing, load, paint_all, parse_adapter, put_on
    from .samples import write_png
    from .sampling import Shot

    side = lesson.recipe.data.resolution
    shots = [
        Shot(prompt, seed=seed, size=(side, side), steps=SAMPLER_STEPS, guidance=GUIDANCE)
        for prompt in PROMPTS
        for seed in SEEDS
    ]
    drawing = Drawing.plan([parse_adapter(str(adapter))], lesson.recipe.backbone.model, lesson.recipe.train.device)
    model = load(drawing, watcher)
    before = list(paint_all(model, shots, watcher, batch=BATCH, phase="drawing before"))
    put_on(drawing, model)
    after = list(paint_all(model, shots, watcher, batch=BATCH, phase="drawing after"))
    width = len(SEEDS)
    rows = [
        (prompt, before[n * width : (n + 1) * width] + after[n * width : (n + 1) * width])
        for n, prompt in enumerate(PROMPTS)
    ]
    names = [f"before, seed {seed}" for seed in SEEDS] + [f"after, seed {seed}" for seed in SEEDS]
    write_png(picture, contact_sheet(rows, names, 2 * side))
