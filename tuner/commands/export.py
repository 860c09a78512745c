"""`export`: an adapter file as another tool reads it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import emit


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file, an adapter folder or a run.")],
    to: Annotated[
        str,
        typer.Option(help="For a LoRA: kohya (sd-scripts, ComfyUI, A1111) or diffusers; for a hypernetwork: a1111."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: <name>_<to>.safetensors or <name>.pt, here."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write an adapter as another tool reads it, read back and compared."""
    from ..console import Console
    from ..formats.container import read_header
    from ..formats.find import KINDS, find_file, kind_of, name_of

    known = list(dict.fromkeys(word for kind in KINDS for word in kind.exports))
    if to not in known:
        raise UsageError(f"--to {to!r} is no kind of keys", f"there is {', '.join(known)}")
    source = find_file(file, next(kind.name for kind in KINDS if to in kind.exports))
    kind = kind_of(read_header(source))
    if to not in kind.exports:
        own = f"it is written for {', '.join(kind.exports)}" if kind.exports else "it is loaded as it is"
        raise UsageError(f"{source} is {kind.label}, which is not written for {to}", own)
    default = Path(f"{name_of(source)}{kind.exports[to]}")
    out = out or default
    if out.suffix != default.suffix:
        raise UsageError(f"--out {out} does not end in {default.suffix}", "no other format is written")
    made = kind.export(source, to, out.expanduser())
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        for warning in made.warnings:
            console.warn(warning)
        if not as_json:
            console.say(f"{made.file}: {made.said}")
    finally:
        console.close()
    if as_json:
        emit({"file": made.file, "source": made.source, "format": to, **made.facts, "warnings": list(made.warnings)})
    return 0
