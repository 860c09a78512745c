"""LOAD.txt: which file of an outcome goes where in which tool, in plain words for whoever is handed the files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .formats.container import read_header
from .formats.find import kind_of
from .formats.inspect import inspect_file
from .formats.lora_kind import DIFFUSERS_FILE
from .formats.model_kind import FOLDER
from .formats.original import ORIGINALS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Row = tuple[str, str, str]
    """Tool, file, what to do with it."""

MANAGER = "add it in its model manager"
LORA_PLACES: Mapping[str, str] = {
    "AUTOMATIC1111": "put it into models/Lora, then write <lora:{stem}:1> in the prompt",
    "Forge": "put it into models/Lora, then write <lora:{stem}:1> in the prompt",
    "ComfyUI": "put it into models/loras, then choose it in a Load LoRA node",
    "InvokeAI": MANAGER,
}
"""By tool, what to do with a LoRA that it reads."""


def notes(folder: Path, title: str) -> str:
    """The text.

    Args:
        folder: an adapter folder.
        title: what the outcome is called.

    Raises: DataError where a file in it cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    told = [(file, inspect_file(file), kind_of(read_header(file)).name) for file in files]
    rows = [row for file, facts, kind in told for row in ROWS[kind](file, facts)]
    labels = ", ".join(dict.fromkeys(kind_of(read_header(file)).label for file in files))
    first = told[0][1] if told else {}
    family = first.get("family")
    head = [f"{title}: {labels} for {family}" if family else f"{title}: {labels}"]
    base = next((facts["base"] for _, facts, _ in told if facts["base"]), None)
    trigger = next((facts["trigger"] for _, facts, _ in told if facts["trigger"]), None)
    head += [f"Made from: {base}"] * bool(base) + [f"Write in the prompt: {trigger}"] * bool(trigger)
    lines = [*head, "", "Which file goes where", ""]
    for tool, file, what in sorted(dict.fromkeys(rows), key=lambda row: TOOLS.index(row[0])):
        lines += [f"  {tool}: {file}", f"    {what}"]
    beside = [file.name for file in sorted(folder.iterdir()) if file.suffix in (".json", ".png") and file.is_file()]
    if beside:
        lines += ["", f"Keep {' and '.join(beside)} beside the file of the same name: some tools show what they say."]
    lines += [
        "",
        "README.md says how it was trained and has code for diffusers. The licence of the base model holds for",
        "these files, too.",
    ]
    return "\n".join(lines) + "\n"


TOOLS = ("AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI", "diffusers")


SHORT = ("NOT", "WRONG", "PART")
"""Beginnings of what is said of a tool that takes a file in part, or takes it for something else."""


def _lora(file: Path, facts: Mapping[str, Any]) -> list[Row]:
    if file.name == DIFFUSERS_FILE:
        return [("diffusers", file.name, "README.md has the code")]
    told: Mapping[str, str] = facts["loads_in"]
    rows = [
        (
            tool,
            file.name,
            told[tool] if told[tool].startswith(("NOT", "WRONG", "PART")) else what.format(stem=file.stem),
        )
        for tool, what in LORA_PLACES.items()
        if not told.get(tool, "not").startswith("not")
    ]
    if not file.with_name(DIFFUSERS_FILE).is_file():  # a DoRA of inputs
        rows.append(("diffusers", file.name, "through tuner.load_adapter; README.md has the code"))
    return rows


def _lycoris(file: Path, facts: Mapping[str, Any]) -> list[Row]:
    code = ("diffusers", file.name, "through tuner.load_adapter; README.md has the code")
    reads = [tool for tool in LORA_PLACES if facts["loads_in"].get(tool, "").startswith("all of it")]
    return [code, *((tool, file.name, LORA_PLACES[tool].format(stem=file.stem)) for tool in reads)]


def _word(file: Path, facts: Mapping[str, Any]) -> list[Row]:
    return [(tool, file.name, what) for tool, what in facts["loads_in"].items() if tool in TOOLS]


def _hypernetwork(file: Path, facts: Mapping[str, Any]) -> list[Row]:
    pickled = f"they read .pt files: `tuner export {file.name} --to a1111` makes one, for models/hypernetworks"
    return [
        (tool, file.name, "README.md has the code" if tool == "diffusers" else pickled)
        for tool in facts["loads_in"]
        if tool in TOOLS
    ]


def _model(file: Path, facts: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [("diffusers", f"the folder {FOLDER}", "from_pretrained takes it; README.md has the code")]
    for tools, place in ORIGINALS[facts["backbone"]].folders.items():
        what = f"put it into {place}" if "/" in place else MANAGER
        rows += [(tool, file.name, what) for tool in tools.split(", ")]
    return rows


ROWS: Mapping[str, Callable[[Path, Mapping[str, Any]], list[Row]]] = {
    "lora": _lora,
    "loha": _lycoris,
    "lokr": _lycoris,
    "textual_inversion": _word,
    "hypernetwork": _hypernetwork,
    "full": _model,
}
"""By kind of file."""
