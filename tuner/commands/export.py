"""`export`: an adapter or a whole model as another tool reads it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import emit

if TYPE_CHECKING:
    from ..console import Console

SINGLE = "single-file"
"""For whole models, which are no adapters."""


def export(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .safetensors file, an adapter folder, a run; or a whole model's folder."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="A LoRA: kohya, diffusers, comfyui or a1111; a hypernetwork: a1111 or comfyui; a model: single-file."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: <name>_<to>.safetensors or <name>.pt, here."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of a single file: fp32, fp16 or bf16. Default: the model's own.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Of a single file: sd15 or sd35, where the model does not tell.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write an adapter, or a whole model, as another tool reads it, read back and compared."""
    from ..console import Console

    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        if to == SINGLE:
            return _single_file(file, out, dtype, backbone, console, as_json=as_json)
        for option, value in {"--dtype": dtype, "--backbone": backbone}.items():
            if value is not None:
                raise UsageError(f"{option} has no effect with --to {to}", f"it is for --to {SINGLE}")
        return _adapter(file, to, out, console, as_json=as_json)
    finally:
        console.close()


def _adapter(path: Path, to: str, out: Path | None, console: Console, *, as_json: bool) -> int:
    """The first of the files at a path that is written for this tool."""
    from ..formats.container import read_header
    from ..formats.find import KINDS, find_files, kind_of, name_of

    known = list(dict.fromkeys(word for kind in KINDS for word in kind.exports))
    if to not in known:
        raise UsageError(f"--to {to!r} is no kind of keys", f"there is {', '.join([*known, SINGLE])}")
    files = [(file, kind_of(read_header(file))) for file in find_files(path)]
    source, kind = next(((file, kind) for file, kind in files if to in kind.exports), files[0])
    if to not in kind.exports:
        own = f"it is written for {', '.join(kind.exports)}" if kind.exports else "it is loaded as it is"
        raise UsageError(f"{source} is {kind.label}, which is not written for {to}", own)
    default = Path(f"{name_of(source)}{kind.exports[to]}")
    out = out or default
    if out.suffix != default.suffix:
        raise UsageError(f"--out {out} does not end in {default.suffix}", "no other format is written")
    made = kind.export(source, to, out.expanduser())
    for warning in made.warnings:
        console.warn(warning)
    if as_json:
        emit({"file": made.file, "source": made.source, "format": to, **made.facts, "warnings": list(made.warnings)})
    else:
        console.say(f"{made.file}: {made.said}")
    return 0


def _single_file(
    path: Path, out: Path | None, dtype: str | None, backbone: str | None, console: Console, *, as_json: bool
) -> int:
    """A whole model as the one file that A1111 and ComfyUI call a checkpoint."""
    from ..files.whole import single_file
    from ..files.writing import torch_dtype
    from ..formats.original import ORIGINALS

    out = (out or Path(f"{path.expanduser().resolve().name}_single.safetensors")).expanduser()
    console.phase(f"writing {out} and reading it back")
    model = single_file(str(path), out, backbone, torch_dtype(dtype) if dtype else None)
    family = model.backbone.key
    places = ", ".join(f"{tool}: {place}" for tool, place in ORIGINALS[family].folders.items())
    if as_json:
        emit({"file": out, "source": path, "format": SINGLE, "backbone": family, "goes_to": ORIGINALS[family].folders})
    else:
        console.say(
            f"{out}: the whole model, {', '.join(ORIGINALS[family].needs)}; read back, every number is the same"
        )
        console.say(f"it goes to {places}")
    return 0
