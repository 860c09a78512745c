"""What the model card says of a LoHa or LoKr: which tool takes it how, with code that runs as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .card import cell, code, introduced, put_card
from .card_code import through_tuner
from .container import read_header
from .lycoris import recognise
from .lycoris_kind import loads_in
from .lycoris_shapes import LABELS

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from ..adapters.injected import Injected
    from .about import About

PLACES = {
    "AUTOMATIC1111": "in `models/Lora`",
    "Forge": "in `models/Lora`",
    "ComfyUI": "in `models/loras`",
    "InvokeAI": "through its model manager",
}
MADE = {
    "loha": "each update is two low-rank products, multiplied entry by entry (FedPara; LyCORIS)",
    "lokr": "each update is a Kronecker product of two small matrices (LyCORIS)",
}


def write_card(folder: Path, about: About, file: Path, adapter: Injected, components: Collection[str]) -> Path:
    """Write the card, or this adapter's part of it.

    Args:
        file: what it is about.
        components: diffusers' names of what was trained.

    Raises: StorageError.
    """
    name = LABELS[adapter.method]
    rows = [("rank", adapter.rank), ("alpha", f"{adapter.alpha or adapter.rank:g}")]
    return put_card(
        folder,
        about,
        name=name,
        tags=("lora", adapter.method, "lycoris"),  # sites list every LyCORIS file under lora
        opening=_opening(about, adapter, components),
        sections=[_use(about, file.name, name), _elsewhere(file, name)],
        rows=[*rows, *((setting, str(value)) for setting, value in adapter.settings().items())],
    )


def _opening(about: About, adapter: Injected, components: Collection[str]) -> str:
    words = {"unet": "UNet"}
    names = sorted(components, key=lambda name: (name.startswith("text_encoder"), name))
    parts = " and the ".join(words.get(name, name.replace("_", " ")) for name in names)
    what = f"A {LABELS[adapter.method]} for the {parts} of {code(about.base or about.family)}"
    return introduced(about, f"{what}: {MADE[adapter.method]}.")


def _use(about: About, file: str, name: str) -> str:
    return f"""## The {name} in diffusers

diffusers has no loader of its own for a {name}; `tuner` puts it there through peft. Run this beside the file:

{through_tuner(about, file)}"""


def _elsewhere(file: Path, name: str) -> str:
    told = loads_in(recognise(file, read_header(file)))
    rows = "\n".join(f"| {tool} | {cell(_row(file, tool, what))} |" for tool, what in told.items() if tool in PLACES)
    return f"""## The {name} in other tools

| tool | what it does with the file |
|---|---|
{rows}

The tensors have LyCORIS' names. When the file was saved it was loaded back as above and compared with the trained
model; what other tools do with it is read from their source."""


def _row(file: Path, tool: str, what: str) -> str:
    return f"{code(file.name)} {PLACES[tool]}: {what}" if what.startswith("all of it") else what
