"""`package`: what a run made, as one zip to hand over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .arguments import AsJson
from .output import emit
from .runs import ROOT, find_run

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's directory or name.")]
Step = Annotated[int | None, typer.Option(min=0, help="What was saved at this step instead of the final files.")]
Root = Annotated[Path, typer.Option("--root", help="The folder that holds the runs.")]


def package(
    run: Run,
    step: Step = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.zip", help="Default: RUN.zip or RUN-STEP.zip, here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace a file that is there.")] = False,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> int:
    """Write a zip to hand over: the files for each tool, the card, the picture, and which file goes where."""
    from ..console import Console
    from ..package import pack

    path = find_run(run, root)
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        made = pack(path, console, step=step, out=out, force=force)
        said = f"{made.file}: {len(made.members)} files, {made.size / 10**6:,.1f} MB, read back and compared"
        if not as_json:
            console.say(said)
    finally:
        console.close()
    if as_json:
        emit(made)
    return 0
