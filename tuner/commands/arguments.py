"""Arguments that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..recipe_file import Reading

MAIN_RECIPE = "dreambooth_lora"
"""What `--rehearse` takes where no recipe is named."""

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE [KEY=VALUE]...",
        help="A recipe's name (`tuner ls`) or file, then changes to it, such as `train.steps=400`.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="The same on the small model that ships with tuner, with smaller sizes; no download."
    ),
]


def split(words: Sequence[str] | None, *, rehearse: bool = False) -> tuple[str, list[str]]:
    """The recipe's name or path, and the overrides after it.

    Raises: UsageError where no recipe is named (a rehearsal then takes the main one), or two are.
    """
    words = list(words or ())
    named = bool(words) and ("=" not in words[0] or Path(words[0]).is_file())
    if not named and not rehearse:
        raise UsageError("no recipe is named", "`tuner ls` lists the recipes; `tuner run --rehearse` needs none")
    source, overrides = (words[0], words[1:]) if named else (MAIN_RECIPE, words)
    for word in overrides:
        if "=" not in word:
            raise UsageError(f"{word!r} is not a change to the recipe", "write key=value, such as train.steps=400")
    return source, overrides


def read(words: Sequence[str] | None, *, rehearse: bool = False) -> Reading:
    """The recipe that the words describe. Raises: RecipeError, UsageError."""
    from ..recipe_file import open_recipe

    source, overrides = split(words, rehearse=rehearse)
    return open_recipe(source, overrides, rehearse=rehearse)
