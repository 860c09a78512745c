"""`quickstart`: the whole way on the small model, from drawn photos to a picture before and after."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import AsJson
from .output import emit

if TYPE_CHECKING:
    from ..console import Console
    from ..quickstart import Course, Lesson


def quickstart(
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, such as train.steps=400."),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Whose small model: sd15 or sd35. Default: sd15.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where. Default: a new runs/quickstart-<n>.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Teach a small model one drawn subject and see it before and after: two minutes, no download, no GPU."""
    from .. import quickstart as lessons
    from ..console import Console
    from .arguments import split

    course = lessons.course(backbone)
    _, asked = split([course.recipe, *(changes or ())])
    lesson = lessons.reading(asked, backbone)
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        recipe = lesson.recipe
        console.say(
            f"DreamBooth-LoRA, the small way: {recipe.train.steps} steps teach the toybox's {course.real} one "
            f"particular {lessons.CLASS}, and keep what it knows of all others"
        )
        done = lessons.teach(lesson, run_dir, [console])
    finally:
        console.close()
    if as_json:
        emit({"run_dir": done.run_dir, "adapter": done.adapter, "picture": done.picture, "step": done.step})
    else:
        typer.echo(summary(done, console, course))
    return 0


def summary(done: Lesson, console: Console, course: Course) -> str:
    """What happened, where it is, and the same with the real model."""
    from ..console import duration
    from ..quickstart import PLAIN, SUBJECT

    return "\n".join(
        [
            f"done: {done.step} steps, {duration(console.seconds)}",
            f"  picture  {done.picture}   <- open this: before and after, from the same noise",
            f"  adapter  {done.adapter}   for {course.tools}; every file was loaded back",
            f'  more     tuner generate --adapter {done.run_dir} "a photo of {SUBJECT} at night"',
            f"  measure  tuner eval {done.run_dir}",
            "",
            f'"{SUBJECT}" is now one particular {PLAIN.split()[-1]}; "{PLAIN}" is still any. The same with your own',
            f"photos and {course.real} ({course.takes}):",
            f'  tuner run {course.recipe} data.instance.path=photos/ data.instance.caption="a photo of sks dog" '
            'data.prior.caption="a photo of a dog"',
        ]
    )
