"""`inspect`: what an adapter file is, without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import AsJson
from .output import columns, emit

LABELS = {
    "file": "file",
    "problem": "problem",
    "format": "keys",
    "token": "word",
    "vectors": "vectors",
    "family": "base family",
    "base": "base",
    "title": "title",
    "trigger": "trigger",
    "rank": "rank",
    "alpha": "alpha",
    "dora": "DoRA, norms of",
    "targets": "layers",
    "hypernetwork": "networks",
    "parameters": "parameters",
    "dtype": "precision",
    "size_bytes": "size",
    "weights": "weights",
    "resolution": "resolution",
    "steps": "steps",
}


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file, an adapter folder or a run.")],
    as_json: AsJson = False,
) -> int:
    """Say what an adapter file is: base, rank, trigger, how it was made, what loads it."""
    from ..formats.inspect import inspect_file

    facts = inspect_file(file)
    if as_json:
        emit(facts)
        return 0
    for fact in (facts, *facts["beside"]):
        show(fact)
    return 0


def show(facts: dict[str, Any]) -> None:
    """Print what is known of one file."""
    rows = [(label, said(key, facts[key])) for key, label in LABELS.items() if facts.get(key) not in (None, {}, [])]
    rows += [("loads in" if number == 0 else "", text) for number, text in enumerate(tools(facts["loads_in"]))]
    typer.echo(columns([(label, printable(text)) for label, text in rows]))
    if facts.get("recipe"):
        typer.echo("\nIt carries the recipe that made it; `--json` shows it.\n")


def printable(text: str) -> str:
    """A stranger's text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def said(key: str, value: Any) -> str:
    """One fact for a person."""
    from ..planning import size

    if key == "size_bytes":
        return size(value)
    if key == "targets":
        return ", ".join(f"{count} in the {component}" for component, count in value.items())
    if key == "hypernetwork":
        layers = " - ".join(f"{size:g}" for size in value["layer_structure"])
        told = [f"widths {', '.join(map(str, value['sizes']))}", f"layers {layers}", value["activation_func"]]
        flags = {"to the end": value["activate_output"], "layer norm": value["is_layer_norm"]}
        return ", ".join([*told, *(word for word, on in flags.items() if on)])
    return f"{value:,}" if isinstance(value, int) and key == "parameters" else str(value)


def tools(loads_in: dict[str, str]) -> list[str]:
    """A line for each answer, with the tools that it holds for."""
    by_answer: dict[str, list[str]] = {}
    for tool, how in loads_in.items():
        by_answer.setdefault(how, []).append(tool)
    return [f"{', '.join(names)}: {how}" for how, names in by_answer.items()]
