"""`run`: train, and go on where an earlier run stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import AsJson, Rehearse, Words, read
from .output import emit

if TYPE_CHECKING:
    from ..console import Console
    from ..engine import RunResult
    from ..recipe_file import Reading


def run(
    words: Words = None,
    rehearse: Rehearse = False,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir", help="Where to write; an unfinished run there goes on. Default: a new runs/<recipe>-<n>."
        ),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Start anew, even where a run is.")] = False,
    as_json: AsJson = False,
) -> int:
    """Train. The same command goes on after a stop; Ctrl-C saves first, a second one ends at once."""
    from ..console import Console

    reading = read(words, rehearse=rehearse)
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        for line in told(reading):
            console.say(line)
        from ..engine import run as train  # only once the recipe is sound: this takes seconds

        name = Path(reading.name).stem
        result = train(reading.recipe, run_dir=run_dir, new=new, watchers=[console], given=reading.given, name=name)
    finally:
        console.close()
    if as_json:
        emit({"run_dir": result.run_dir, "adapter": result.adapter, "step": result.step, "best": result.best})
    else:
        typer.echo(summary(result, console))
    return 0


def told(reading: Reading) -> list[str]:
    """What `--rehearse` changed, so that nobody takes it for the real thing."""
    if not reading.changes and not reading.notes:
        return []
    preset = ", ".join(f"{key}={'null' if value is None else value}" for key, value in reading.changes)
    return [f"rehearsal of {Path(reading.name).stem}: {preset}", *reading.notes]


def summary(result: RunResult, console: Console) -> str:
    """The last words: what there is now, and what to do with it."""
    from ..console import duration

    facts = [f"{result.step} steps", duration(console.seconds)]
    if console.loss is not None:
        facts.append(f"loss {console.loss:.4f}")
    if console.warnings:
        facts.append(f"{console.warnings} {'warning' if console.warnings == 1 else 'warnings'} above")
    lines = [
        f"done: {', '.join(facts)}",
        f"  adapter  {result.adapter}",
        f'  try it   tuner generate --adapter {result.run_dir} "a prompt"',
    ]
    return "\n".join(lines)
