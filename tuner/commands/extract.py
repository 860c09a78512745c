"""`extract`: a LoRA out of a fully fine-tuned model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .lora_output import Dtype, Energy, Keys, OwnBackbone, Rank, say_lora, told, wanted
from .output import emit

if TYPE_CHECKING:
    from ..files.extract import Extracted
    from ..watch import Watcher

MUCH = 0.1
"""From this share of the change on, leaving the convolutions out is warned about."""


def extract(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="The fine-tuned model: folder, .safetensors, Hub id, or a run.")
    ],
    base: Annotated[str, typer.Option(help="What it was trained from: folder, .safetensors, Hub id or `toybox`.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A new .safetensors file.")],
    rank: Rank = None,
    energy: Energy = None,
    conv_rank: Annotated[
        int | None,
        typer.Option("--conv-rank", metavar="N", help="Take convolutions, too, at this rank, at most."),
    ] = None,
    conv_energy: Annotated[
        float | None,
        typer.Option("--conv-energy", metavar="E", help="Instead: at the rank that keeps this share of each."),
    ] = None,
    backbone: OwnBackbone = None,
    keys: Keys = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> int:
    """Take a LoRA out of a fully fine-tuned model: the difference to its base, by SVD, and what it keeps of it."""
    from ..console import Console
    from ..files.extract import extract as take_out

    much = wanted(rank, energy)
    if much is None:
        raise UsageError("say how much to keep by --rank or --energy", "such as --rank 32, or --energy 0.95")
    convolutions = wanted(conv_rank, conv_energy)
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        found = take_out(
            tuned, base, out.expanduser(), much, console,
            convolutions=convolutions, backbone=backbone, style=keys, dtype=dtype or "fp32",
        )  # fmt: skip
        if not as_json:
            show(found, console)
    finally:
        console.close()
    if as_json:
        emit({**told(found.made), "of_all": found.of_all, "left": found.left, "unchanged": found.unchanged})
    return 0


def show(found: Extracted, console: Watcher) -> None:
    """What is in the file, and what is not."""
    for left in found.left:
        console.say(f"{left.component}: {left.count} {left.kind} left out, {left.share:.2%} of its change")
        if left.kind == "convolutions" and left.share > MUCH:
            console.warn("that may be much of what it learned; --conv-rank N takes convolutions, too")
    if found.unchanged:
        console.say(f"{found.unchanged} layers are the same in both models")
    say_lora(found.made, console)
    for component, share in found.of_all.items():
        console.say(f"{component}: the file holds {share:.2%} of its whole change")
