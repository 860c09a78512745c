"""`check`, `plan`, `show`, `schema`: what a recipe means and will do. None of them imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.held_out import ROLE as HELD_OUT
from .arguments import AsJson, Rehearse, Words, read
from .output import emit
from .runs import ROOT as RUNS

if TYPE_CHECKING:
    from ..data.scan import Scan
    from ..recipe import Recipe


def check(words: Words = None, rehearse: Rehearse = False, as_json: AsJson = False) -> int:
    """Check a recipe and every picture and caption that it names, without a GPU."""
    from ..console import Console
    from ..data.scan import scan
    from ..identifier import advice
    from ..watch import Watcher

    recipe = read(words, rehearse=rehearse).recipe
    watcher = Watcher() if as_json else Console()
    try:
        found = scan(recipe, decode=True, watcher=watcher)
    finally:
        watcher.close()
    found.notes = [*advice(recipe), *found.notes]
    counts = {role: len(examples) for role, examples in found.examples.items()}
    if as_json:
        refused = [{"name": item.name, "reason": item.reason} for item in found.refused]
        emit({"ok": True, "pictures": counts, "refused": refused, "notes": found.notes})
        return 0
    typer.echo(verdict(recipe, found))
    return 0


def verdict(recipe: Recipe, found: Scan) -> str:
    """What `check` says at the end."""
    lines = [f"refused: {item.name}: {item.reason}" for item in found.refused]
    lines += [f"note: {note}" for note in found.notes]
    for role in recipe.task.roles(recipe.sources):
        if role.mirrors:
            lines.append(f"{role.name}: takes the pictures of {role.mirrors}")
        else:
            count = len(found.examples.get(role.name, ()))
            lines.append(f"{role.name}: {count} {'picture' if count == 1 else 'pictures'} can be used")
    if held := len(found.examples.get(HELD_OUT, ())):
        lines.append(f"{HELD_OUT}: {held} {'picture is' if held == 1 else 'pictures are'} held out")
    many = "1 file" if len(found.refused) == 1 else f"{len(found.refused)} files"
    fault = f", but {many} cannot be used" if found.refused else ""
    return "\n".join([*lines, f"the recipe is sound{fault}; `tuner plan` shows what it will do"])


def show_plan(
    words: Words = None,
    rehearse: Rehearse = False,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Where the run would write.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show what a run will do and need: steps, pictures, memory, disk. Nothing is loaded."""
    from ..planning import measured_rate, plan

    recipe = read(words, rehearse=rehearse).recipe
    planned = plan(recipe, run_dir=run_dir, steps_a_second=measured_rate(recipe, RUNS))
    if as_json:
        emit(planned.to_json())
    else:
        typer.echo(str(planned))
    return 0


def show(
    words: Words = None,
    rehearse: Rehearse = False,
    bare: Annotated[bool, typer.Option("--bare", help="Leave the explanations out.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show a recipe with every default written out, and what each key means."""
    from ..describe import show as explained
    from ..resolved import resolved_tree, resolved_yaml

    recipe = read(words, rehearse=rehearse).recipe
    if as_json:
        emit(resolved_tree(recipe))
    else:
        typer.echo((resolved_yaml(recipe) if bare else explained(recipe)).rstrip())
    return 0


def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it to this file.")] = None,
) -> int:
    """Print the JSON Schema of recipes, for completion and checks in an editor."""
    from .. import atomic
    from ..schema import schema_text

    text = schema_text()
    if out is None:
        typer.echo(text, nl=False)
        return 0
    atomic.write(out, text)
    typer.echo(f"wrote {out}; put `# yaml-language-server: $schema={out}` at the top of a recipe")
    return 0
