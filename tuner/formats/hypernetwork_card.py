"""What the model card says of a hypernetwork: which tool takes it how, with code that runs as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .card import code, introduced, put_card
from .card_code import through_tuner
from .families import FAMILIES
from .hypernetwork_kind import loads_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..nn.hypernetwork_structure import Structure
    from .about import About


def write_card(folder: Path, about: About, file: str, structure: Structure, widths: Sequence[int]) -> Path:
    """Write the card, or this adapter's part of it.

    Args:
        file: name of the file that it is about.

    Raises: StorageError.
    """
    return put_card(
        folder,
        about,
        name="Hypernetwork",
        tags=("hypernetwork",),
        opening=_opening(about, structure, widths),
        sections=[_use(about, file), _elsewhere(about, file)],
        rows=[("hypernetwork", f"layers {_layers(structure)}, widths {', '.join(map(str, widths))}")],
    )


def _layers(structure: Structure) -> str:
    return " - ".join(f"{size:g}" for size in structure.layers)


def _opening(about: About, structure: Structure, widths: Sequence[int]) -> str:
    options = [
        f"activation {structure.activation}" if structure.activation != "linear" else "",
        "also behind the last layer" if structure.activate_output else "",
        "layer norm" if structure.layer_norm else "",
        "dropout in training" if any(structure.dropout) else "",
    ]
    where = {
        "sd15": "before the keys and values of the UNet's attention, as in AUTOMATIC1111",
        "sd35": "before the text's keys and values in the joint attention",
    }[about.family]
    what = f"widths {', '.join(map(str, widths))}, layers {_layers(structure)}"
    said = ", ".join(filter(None, [what, *options]))
    base = code(about.base or about.family)
    return introduced(about, f"A hypernetwork for {base}: small networks {where} ({said}).")


def _use(about: About, file: str) -> str:
    return f"""## The hypernetwork in diffusers

diffusers has no loader for hypernetworks; `tuner` has one. Run this beside the file:

{through_tuner(about, file)}"""


def _elsewhere(about: About, file: str) -> str:
    title = "## The hypernetwork in other tools\n\n"
    if about.family != "sd15":
        return (
            f"{title}None: this format is `tuner`'s own, for no other tool has hypernetworks for "
            f"{FAMILIES[about.family].label}."
        )
    rows = "\n".join(f"| {tool} | {how} |" for tool, how in loads_in(about.family).items())
    return f"""{title}| tool | what it reads |
|---|---|
{rows}

{code(f"tuner export {file} --to a1111")} writes the `.pt` for `models/hypernetworks` of both."""
