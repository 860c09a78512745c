"""`generate`: draw pictures with a base model and any number of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import emit

OUT = Path("generated")


def generate(
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="What to draw; one picture or more for each.")
    ],
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            "-a",
            metavar="FILE[:STRENGTH]",
            help="A file, adapter folder or run; 1.0 is what was trained. May be given several times.",
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
    negative: Annotated[str, typer.Option(help="What to keep out of the picture.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Pictures for each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture; the next takes the next.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Sampler steps. Default: the base's own; sd15 25, sd35 28, a turbo 4."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0, max=50, help="Guidance scale; 1 or less: none. Default: sd15 7.5, SD3.5 4.5, SD3 7, a turbo 0."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="PX|WxH", help="Size; default: what the adapter was trained at.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(help="dpm++, ddim or euler; flow_euler on a flow such as SD3.5. auto: dpm++ or flow_euler.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png file for one picture, else a folder.")] = OUT,
    as_json: AsJson = False,
) -> int:
    """Draw pictures with a base model and adapters, such as --adapter runs/dog:0.8."""
    import sys

    from ..console import Console
    from ..drawing import Drawing, draw, parse_adapter
    from ..png_file import write_picture
    from ..sampling import SAMPLERS, Shot

    known = list(dict.fromkeys(name for names in SAMPLERS.values() for name in names))
    if scheduler not in ("auto", *known):
        raise UsageError(f"unknown scheduler {scheduler!r}", f"there is {', '.join(known)}")
    drawing = Drawing.plan([parse_adapter(text) for text in adapters or ()], base, device, backbone=backbone)
    there = SAMPLERS[drawing.backbone.default_objective]
    if scheduler not in ("auto", *there):
        raise UsageError(f"{scheduler} does not draw {drawing.backbone.key}", f"there is {', '.join(there)}")
    scheduler = there[0] if scheduler == "auto" else scheduler
    width, height = parse_size(size) if size else (drawing.resolution, drawing.resolution)
    drawing.check_size(width, height)
    own = drawing.backbone.habits()
    steps, guidance = steps or own.steps, own.guidance if guidance is None else guidance
    shots = [
        Shot(prompt, negative, seed + number, (width, height), steps, guidance, scheduler)
        for prompt in prompts
        for number in range(count)
    ]
    files = destinations(out, len(shots))
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        for file, shot, picture in zip(files, shots, draw(drawing, shots, console), strict=True):
            write_picture(file, picture, shot, drawing.names)
            console.say(f"{file}: {shot.prompt} (seed {shot.seed})")
    finally:
        console.close()
    if as_json:
        made = [
            {"file": file, "prompt": shot.prompt, "seed": shot.seed} for file, shot in zip(files, shots, strict=True)
        ]
        emit({"base": drawing.base, "adapters": drawing.names, "pictures": made})
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """'512' or '512x768' as width and height. Raises: UsageError."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and 0 < len(part) < 6 for part in parts):
        raise UsageError(f"--size {text!r} is no size", "write 512 or 512x768 (width x height)")
    width, height = int(parts[0]), int(parts[-1])
    return width, height


def destinations(out: Path, count: int) -> list[Path]:
    """Files that are not there yet: `out` itself for one .png, else the next free numbers in the folder.

    Raises: UsageError.
    """
    if out.suffix.lower() == ".png":
        if count > 1:
            raise UsageError(f"{out} is one file for {count} pictures", "give a folder to --out")
        if out.exists():
            raise UsageError(f"{out} is there already", "choose another name")
        return [out]
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, but not a .png", "give a folder, or a name that ends in .png, to --out")
    taken = [int(path.stem) for path in out.glob("*.png") if path.stem.isascii() and path.stem.isdigit()]
    first = max(taken, default=-1) + 1
    return [out / f"{number:04}.png" for number in range(first, first + count)]
