"""`merge`: adapters into a base model, or several LoRAs into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .lora_output import Dtype, Energy, Keys, OwnBackbone, Rank, say_lora, told, wanted
from .output import emit


def merge(
    adapters: Annotated[
        list[str],
        typer.Argument(metavar="FILE[:WEIGHT]...", help="Files, adapter folders or runs; 1.0 is what was trained."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="OUT", help="A new .safetensors file; with --base also a new folder."),
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Merge into this model: folder, .safetensors, Hub id or `toybox`. Else: LoRAs into one."),
    ] = None,
    backbone: OwnBackbone = None,
    rank: Rank = None,
    energy: Energy = None,
    keys: Keys = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> int:
    """Merge adapters into a base model (--base), or several LoRAs into one file.

    LoRAs become one exactly: their ranks add up. --rank or --energy makes the sum smaller.
    """
    import sys

    from ..console import Console
    from ..drawing import parse_adapter

    given = [parse_adapter(text) for text in adapters]
    out = out.expanduser()
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        if base is None:
            from ..files.loras import merge_loras

            if backbone is not None:
                raise UsageError("--backbone has no effect without --base", "LoRA files say which family they are for")
            made = merge_loras(given, out, console, wanted=wanted(rank, energy), style=keys, dtype=dtype)
            facts = told(made)
            if not as_json:
                say_lora(made, console)
        else:
            from ..files.merge import merge as into_base

            for option, value in {"--rank": rank, "--energy": energy, "--keys": keys}.items():
                if value is not None:
                    raise UsageError(f"{option} has no effect with --base, which writes a whole model", "leave it out")
            merged = into_base(base, given, out, console, backbone=backbone, dtype=dtype)
            facts = {"file": merged.out, "base": base, "layers": merged.layers, "dtypes": merged.dtypes}
            facts["rounding"] = merged.rounding
            counts = ", ".join(f"{count} layers of the {component}" for component, count in merged.layers.items())
            kinds = ", ".join(dict.fromkeys(merged.dtypes.values()))
            if not as_json:
                console.say(f"{merged.out}: {base} with {counts} changed, {kinds}; read back, every number is the same")
    finally:
        console.close()
    if as_json:
        emit(facts)
    return 0
