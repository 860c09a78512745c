"""`resize`: a LoRA at a smaller rank."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .arguments import AsJson
from .lora_output import Dtype, Energy, Keys, Rank, say_lora, told, wanted
from .output import emit


def resize(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA: .safetensors file, adapter folder or run.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A new .safetensors file.")],
    rank: Rank = None,
    energy: Energy = None,
    keys: Keys = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> int:
    """Make a LoRA smaller by --rank or --energy, layer by layer the best of its rank, and say what was kept."""
    from ..console import Console
    from ..files.loras import resize as make_smaller
    from ..files.low_rank import Wanted

    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        much = wanted(rank, energy) or Wanted()
        made = make_smaller(file, out.expanduser(), much, console, style=keys, dtype=dtype)
        if not as_json:
            say_lora(made, console)
    finally:
        console.close()
    if as_json:
        emit(told(made))
    return 0
