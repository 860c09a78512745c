"""What the commands that write a LoRA share: how much to keep, under which keys, and what they say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..files.loras import Made
    from ..files.low_rank import Wanted
    from ..watch import Watcher

Rank = Annotated[int | None, typer.Option("--rank", metavar="N", help="Rank of each layer, at most.")]
Energy = Annotated[
    float | None,
    typer.Option("--energy", metavar="E", help="Instead: of each layer the rank that keeps this share, such as 0.95."),
]
Keys = Annotated[str | None, typer.Option("--keys", help="diffusers or kohya. Default: the file's own.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="fp32, fp16 or bf16. Default: the file's own.")]
OwnBackbone = Annotated[str | None, typer.Option(help="sd15 or sd35, where the files do not tell.")]


def wanted(rank: int | None, energy: float | None) -> Wanted | None:
    """What to keep; None where neither is given. Raises: UsageError where both are, or one cannot be meant."""
    from ..files.low_rank import Wanted

    return None if rank is None and energy is None else Wanted(rank, energy)


def say_lora(made: Made, console: Watcher) -> None:
    """A line for each component, with its ranks and what was kept, and one for the file."""
    for component, part in made.parts.items():
        low, high = part.ranks
        ranks = f"rank {high}" if low == high else f"ranks {low} to {high}"
        console.say(f"{component}: {part.layers} layers, {ranks}, {part.kept:.2%} of the energy kept")
    if made.style == "diffusers" and len({rank for part in made.parts.values() for rank in part.ranks}) > 1:
        most = max(part.ranks[1] for part in made.parts.values())
        console.say(
            f"with diffusers' keys each layer is filled up with zeros to rank {most}, so that all readers agree"
        )
    console.say(f"{made.out}: the keys of {made.style}, {made.kept:.2%} of the energy kept; read back, it is the same")


def told(made: Made) -> dict[str, Any]:
    """The same for programs."""
    return {"file": made.out, "family": made.family, "keys": made.style, "kept": made.kept, "parts": made.parts}
