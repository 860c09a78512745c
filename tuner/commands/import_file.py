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
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="An embedding or a hypernetwork of AUTOMATIC1111 (.pt), or a LoRA (.pt, .bin, .ckpt).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: <name>.safetensors, here."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make an adapter's pickle a .safetensors file. Of the pickle, numbers and texts are read; no code runs."""
    from ..console import Console
    from ..formats.find import PICKLES
    from ..formats.importing import import_file as imported

    if file.suffix.lower() not in PICKLES:
        raise UsageError(f"{file} is no pickle ({', '.join(sorted(PICKLES))})", "other files are loaded as they are")
    if out is not None and out.suffix != ".safetensors":
        raise UsageError(f"--out {out} does not end in .safetensors", "no other format is written")
    made = imported(file.expanduser(), out.expanduser() if out else None)
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        for warning in made.warnings:
            console.warn(warning)
        if not as_json:
            console.say(f"{made.file}: {made.said}; read back, every number is the same")
    finally:
        console.close()
    if as_json:
        emit({
            "file": made.file, "source": made.source, "kind": made.kind, **made.facts, "warnings": list(made.warnings)
        })  # fmt: skip
    return 0
