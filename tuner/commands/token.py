"""`token`: rare words that can name a subject, and what the tokenizers make of words of one's own."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import columns, emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..backbones import Backbone
    from ..backbones.vocabulary import Vocabulary
    from ..identifier import Verdict


def token(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]...", help="Words to judge; without any, rare ones are listed.", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Take the base from this recipe, and judge the words that it uses.")
    ] = None,
    backbone: Annotated[str, typer.Option("--backbone", help="Family of the base, where no recipe is named.")] = "sd15",
    model: Annotated[
        str | None, typer.Option("--model", help="The base itself: a folder or Hub id, for tokenizers of its own.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many to list.")] = 10,
    as_json: AsJson = False,
) -> int:
    """Find rare words to name a subject by: whole in every tokenizer of the base, with little meaning of their own."""
    from ..identifier import judge, suggest

    base, own = _base(recipe, backbone, model)
    vocabularies, missing = base.vocabularies()
    chosen = list(dict.fromkeys([*(words or ()), *own]))
    verdicts = [judge(word, vocabularies) for word in chosen] or list(islice(suggest(vocabularies), count))
    if as_json:
        emit(
            {"backbone": base.key, "tokenizers": [v.name for v in vocabularies], "missing": missing, "words": verdicts}
        )
        return 0
    typer.echo(columns(_rows(verdicts, vocabularies), ("word", *(v.name for v in vocabularies), "")))
    for name in missing:
        typer.echo(f"{name}: its tokenizer comes with the model, which is not on this machine, so it is not asked")
    return 0


def _base(recipe: str | None, backbone: str, model: str | None) -> tuple[Backbone, Sequence[str]]:
    """The base, and the words that a recipe names its subjects by. Raises: RecipeError, UsageError."""
    from ..backbones import Backbone
    from ..wording import suggest

    if recipe is not None:
        from ..identifier import names
        from ..recipe_file import load_recipe

        if model is not None:
            raise UsageError("--recipe and --model are both given", "a recipe names its own base; keep one of them")
        read = load_recipe(recipe)
        subjects = read.task.subjects(read.sources)
        return read.backbone, [word for one in subjects for word in names(one, read.data.trigger or "")]
    if backbone not in Backbone.family:
        raise UsageError(f"--backbone: unknown backbone {backbone!r}{suggest(backbone, Backbone.family)}")
    return Backbone.read({"name": backbone, "model": model or "toybox"}), ()


def _rows(verdicts: Sequence[Verdict], vocabularies: Sequence[Vocabulary]) -> list[list[str]]:
    """A row for each word: its place in each vocabulary, or its pieces there, and what speaks against it."""
    rows = []
    for verdict in verdicts:
        ranks = [(verdict.ranks[v.name], " ".join(verdict.pieces[v.name])) for v in vocabularies]
        cells = [f"number {rank + 1:,}" if rank is not None else pieces for rank, pieces in ranks]
        rows.append([verdict.word, *cells, verdict.fault])
    return rows
