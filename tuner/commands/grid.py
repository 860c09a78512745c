"""`grid`: the same picture over two settings, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .generate import parse_size
from .output import emit

OUT = Path("grid")


def grid(
    prompt: Annotated[str | None, typer.Argument(help="What to draw; none where an axis varies the prompt.")] = None,
    x: Annotated[
        str | None,
        typer.Option(
            "--x",
            metavar="NAME=VALUES",
            help="What varies from left to right: checkpoint, strength, seed, prompt, guidance or steps, such as "
            "strength=0,0.5,1 or checkpoint=200,400,final. Prompts are separated by |.",
        ),
    ] = None,
    y: Annotated[
        str | None, typer.Option("--y", metavar="NAME=VALUES", help="What varies from top to bottom; one row without.")
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            "-a",
            metavar="FILE[:STRENGTH]",
            help="A file, adapter folder or run; 1.0 is what was trained, 0 the base alone.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The base model: folder, .safetensors, Hub id or `toybox`. Default: the adapter's own."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="sd15 or sd35. Default: what the adapter or the base itself says; of the toybox, sd15."),
    ] = None,
    negative: Annotated[str, typer.Option(help="What to keep out of the pictures.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed is the same noise in every cell. 0.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Sampler steps. Default: the base's own, as for `generate`.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=50, help="Guidance scale. Default: the base's own, as for `generate`.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="PX|WxH", help="Size; default: what the adapter was trained at.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder that holds no grid yet.")] = OUT,
    as_json: AsJson = False,
) -> int:
    """Draw a grid of pictures over two settings from the same noise, such as --x strength=0,0.5,1 --y seed=0,1,2."""
    from ..drawing import parse_adapter
    from ..grid_axes import STRENGTHS, check_size, parse_axis

    if x is None:
        raise UsageError("nothing says what varies", "give --x, such as --x strength=0,0.5,1")
    across, down = parse_axis(x), parse_axis(y, "--y") if y is not None else None
    check_size(across, down)
    strong = parse_adapter(adapter) if adapter is not None else None
    strength = strong.strength if strong and str(strong.path) != str(Path(adapter or "").expanduser()) else None
    if strength is not None and not STRENGTHS[0] <= strength <= STRENGTHS[1]:
        raise UsageError(f"--adapter: a strength of {strength:g} is outside {STRENGTHS[0]:g} to {STRENGTHS[1]:g}")
    from ..console import Console
    from ..grid_files import SHEET, check_folder, make
    from ..grids import Fixed, plan

    out = out.expanduser()
    check_folder(out)
    fixed = Fixed(prompt, negative, seed, steps, guidance, strength, parse_size(size) if size else None)
    planned = plan(across, down, fixed, adapter=strong and strong.path, base=base, backbone=backbone, device=device)
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        made = make(planned, out, console)
        console.say(f"{out / SHEET}: {len(made['cells'])} pictures side by side")
    finally:
        console.close()
    if as_json:
        emit({"out": out, **made})
    return 0
