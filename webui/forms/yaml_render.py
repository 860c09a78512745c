"""How a value is written into a recipe: on one line, or on lines of its own."""

from __future__ import annotations

import json
from typing import Any

from tuner.yaml_write import to_yaml

SHORT = 88
"""Characters of a list or mapping in brackets, from which on it gets lines of its own."""


def word(value: Any) -> str:
    """A scalar, or an empty list or mapping."""
    return to_yaml({"k": value})[len("k: ") : -1]


def flow(value: Any) -> str:
    """Any value on one line, within brackets where it is a list or mapping."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(inner) for inner in value) + "]"
    written = word(value)
    # What is plain text on a line of its own may end at a comma, or read as a key, within brackets.
    if isinstance(value, str) and not written.startswith('"') and not written.replace("_", "").isalnum():
        return json.dumps(written)
    return written


def one_line(value: Any) -> bool:
    """Whether a value is written on the line of its key."""
    if not value or not isinstance(value, (dict, list, tuple)):
        return True
    inner = list(value.values()) if isinstance(value, dict) else list(value)
    if any(isinstance(entry, (dict, list, tuple)) for entry in inner):
        return False
    if not isinstance(value, dict) and any(isinstance(entry, str) for entry in inner):
        return False
    return len(flow(value)) <= SHORT


def pair(key: str, value: Any, *, section: bool = False) -> list[str]:
    """Lines that give a key its value; with `section` a mapping has lines of its own, however short it is."""
    name = word(key)
    if one_line(value) and not (section and value and isinstance(value, dict)):
        return [f"{name}: {flow(value) if isinstance(value, (dict, list, tuple)) else word(value)}"]
    return [f"{name}:", *("  " + line for line in block(value))]


def block(value: Any) -> list[str]:
    """Lines of a list or mapping that is not empty."""
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in pair(key, inner)]
    lines = []
    for inner in value:
        lines += item(inner)
    return lines


def item(value: Any) -> list[str]:
    """Lines of one entry of a list."""
    if isinstance(value, dict) and value:
        first, *rest = block(value)
        return [f"- {first}", *("  " + line for line in rest)]
    return [f"- {flow(value) if isinstance(value, (dict, list, tuple)) else word(value)}"]
