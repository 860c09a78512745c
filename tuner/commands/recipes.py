"""`ls`, `cat`, `cp`: the recipes that come with tuner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import columns, emit

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, as `tuner ls` lists it.")]


def ls(as_json: AsJson = False) -> int:
    """List the recipes that come with tuner."""
    from ..shipped import about, shipped

    found = {name: (about(path.read_text(encoding="utf-8")), path) for name, path in shipped().items()}
    if as_json:
        emit([{"name": name, "about": text, "path": path} for name, (text, path) in found.items()])
    else:
        typer.echo(columns([(name, text) for name, (text, _) in found.items()]))
        typer.echo("\n`tuner cat NAME` shows one, `tuner cp NAME mine.yaml` makes it yours, `tuner run NAME` runs it")
    return 0


def cat(name: Name) -> int:
    """Print a recipe as it ships, comments and all."""
    from ..shipped import shipped_recipe

    typer.echo(shipped_recipe(name).read_text(encoding="utf-8"), nl=False)
    return 0


def cp(
    name: Name,
    to: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to; the recipe's own name if left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> int:
    """Copy a recipe to a file of your own, to change it."""
    from .. import atomic
    from ..shipped import shipped_recipe

    source = shipped_recipe(name)
    target = to or Path(source.name)
    if target.is_dir():
        target /= source.name
    elif target.suffix not in (".yaml", ".yml"):
        target = target.with_name(target.name + ".yaml")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already", "choose another name, or give --force to replace it")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", "make it first, or choose another place")
    atomic.write(target, source.read_bytes())
    typer.echo(f"wrote {target}; next: `tuner plan {target}`, then `tuner run {target}`")
    return 0
