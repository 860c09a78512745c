"""`eval`: measure what a run taught."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .arguments import AsJson
from .output import columns, emit


def evaluate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory with a saved adapter.")],
    step: Annotated[int | None, typer.Option(min=1, help="Measure what was saved at this step instead.")] = None,
    subject: Annotated[str | None, typer.Option(help="Caption of the subject. Default: the run's.")] = None,
    plain: Annotated[
        str | None, typer.Option("--class", help="Caption of the plain class. Default: the run's.")
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="The pictures that it learned from, if they were moved.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="SET|FILE",
            help="objects or live (the DreamBooth paper's 25), toybox, or a file: one a line, {} = subject.",
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="The base model, if it is not where the run had it.")] = None,
    clip: Annotated[
        str | None, typer.Option(metavar="FOLDER|HUB ID", help="CLIP that compares pictures and texts.")
    ] = None,
    dino: Annotated[str | None, typer.Option(metavar="FOLDER|HUB ID", help="DINOv2 that compares looks.")] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1000, help="Pictures of the subject, and of its class.")
    ] = 16,
    per_prompt: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Pictures for each context and unrelated prompt.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampler steps.")] = 20,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=50, help="Guidance scale. Default: the base's own, as for `generate`.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Side in pixels. Default: the run's resolution.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures drawn at a time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder. Default: RUN/evaluation.")] = None,
    as_json: AsJson = False,
) -> int:
    """Measure what a run taught: subject, prompts, drift, diversity and copying; base and adapter side by side."""
    from ..console import Console
    from ..evaluation import Asking
    from ..evaluation import evaluate as measure
    from ..evaluation.evaluate import place

    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        report = measure(
            run_dir,
            step=step,
            asking=Asking(count, per_prompt, seed, steps, guidance, batch=batch),
            clip=clip,
            dino=dino,
            out=out,
            watcher=console,
            base=base,
            plain=plain,
            subject=subject,
            photos=photos,
            prompts=prompts,
            size=size,
            device=device,
        )
    finally:
        console.close()
    if as_json:
        emit(report)
        return 0
    head, *rows = report.table()
    typer.echo(columns(rows, head))
    for line in report.unmeasured:
        typer.echo(f"not measured: {line}")
    typer.echo(f"pictures  {(out or place(run_dir, step)) / 'sheet.png'}")
    return 0
