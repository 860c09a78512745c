"""`import`: a file that only its own tool reads, made one that loads without running anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import emit


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A hypernetwork of AUTOMATIC1111 (.pt).")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: <name>.hypernetwork.safetensors, here."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make a hypernetwork's .pt a .safetensors file. Of the pickle, numbers and texts are read; no code runs."""
    from ..console import Console
    from ..formats.find import PICKLES
    from ..formats.hypernetwork import ENDING
    from ..formats.hypernetwork_pt import import_pt

    if file.suffix.lower() not in PICKLES:
        raise UsageError(f"{file} is no pickle ({', '.join(sorted(PICKLES))})", "other files are loaded as they are")
    out = out or Path(f"{file.stem}{ENDING}")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} does not end in .safetensors", "no other format is written")
    made = import_pt(file.expanduser(), out.expanduser())
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        for warning in made.warnings:
            console.warn(warning)
        if not as_json:
            widths = ", ".join(map(str, made.found.widths))
            console.say(f"{made.file}: a hypernetwork, widths {widths}; read back, every number is the same")
    finally:
        console.close()
    if as_json:
        facts = {"kind": "hypernetwork", "sizes": list(made.found.widths)}
        emit({"file": made.file, "source": made.source, **facts, "warnings": made.warnings})
    return 0
