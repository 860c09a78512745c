"""`export`: an adapter file with another tool's keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import emit

STYLES = ("diffusers", "kohya")


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file, an adapter folder or a run.")],
    to: Annotated[str, typer.Option(help="Whose keys: kohya (sd-scripts, ComfyUI, A1111) or diffusers.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Default: <name>_<to>.safetensors, here.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write a LoRA with the keys of another tool: the same update, read back and compared."""
    from ..console import Console
    from ..formats.convert import convert
    from ..formats.find import find_file, name_of

    if to not in STYLES:
        raise UsageError(f"--to {to!r} is no kind of keys", f"there is {', '.join(STYLES)}")
    out = out or Path(f"{name_of(find_file(file))}_{to}.safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} does not end in .safetensors", "no other format is written")
    made = convert(file, to, out.expanduser())  # type: ignore[arg-type]
    warnings = []
    if to == "kohya" and not made.family.kohya_in_diffusers:
        warnings.append(
            f"DIFFUSERS IGNORES THIS FILE: load_lora_weights passes over kohya's keys of {made.family.label} with no "
            f"more than a warning and changes nothing. For diffusers take {made.source.name}, which you have"
        )
    if made.widened:
        warnings.append(f"{made.widened} tensors are fp32 now: in 16 bit their scale would have been rounded")
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        for warning in warnings:
            console.warn(warning)
        if not as_json:
            counts = ", ".join(f"{count} in the {component}" for component, count in made.layers.items())
            console.say(f"{made.file}: the keys of {to}, {counts}; read back, the update is the same")
    finally:
        console.close()
    if as_json:
        emit({"file": made.file, "source": made.source, "format": to, "layers": made.layers, "warnings": warnings})
    return 0
