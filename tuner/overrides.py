"""`key=value` on the command line: one edit of a recipe's values before they are validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .part_types import default_at, family_of, fields_at, takes_list
from .parts import Choice, Part
from .wording import quoted, show_key, what
from .yaml_text import MAX_DEPTH, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .yaml_text import Path


@dataclass(frozen=True, slots=True)
class Override:
    """One edit."""

    text: str
    """As it was typed."""
    keys: tuple[str, ...]
    value: Any

    def __str__(self) -> str:
        return f"override {quoted(self.text)}"


def read_override(text: str) -> Override:
    """`key.path=value`, the value read as YAML by a recipe's rules.

    Raises: ValueError saying what is wrong.
    """
    key, equals, given = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise ValueError("must be key=value, such as train.steps=400")
    if len(keys) > MAX_DEPTH:
        raise ValueError("has too many dots")
    document = parse(given, one_value=True)
    if document.faults:
        raise ValueError(document.faults[0].text)
    return Override(text, keys, document.value)


def apply(tree: dict[str, Any], override: Override, root: type[Part]) -> Path:
    """Put the value in its place, making sections on the way, and return that place.

    A part that is given alone where a list may stand is a list of one: `data.instance.path` and `data.instance.0.path`
    mean the same. A bare name that is given keys becomes a mapping with that name.

    Raises: ValueError where the path leads through something that is no section.
    """
    holder: Any = {"": tree}
    slot: Any = ""
    path: Path = ()
    keys = list(override.keys)
    while keys:
        node = holder[slot]
        if isinstance(node, list):
            holder, slot = node, _entry(node, keys, path)
            path = (*path, slot)
            continue
        if keys[0] == "0" and any(takes_list(field.annotation) for field in fields_at(root, path)):
            keys.pop(0)
            continue
        if not isinstance(node, dict):
            node = holder[slot] = _section(node, path, root)
        holder, slot = node, keys.pop(0)
        holder.setdefault(slot, None)
        path = (*path, slot)
    holder[slot] = override.value
    return path


def _entry(entries: Sequence[Any], keys: list[str], path: Path) -> int:
    """The place in a list that the path goes on from; takes its number off the path."""
    if keys[0].isdecimal() and keys[0].isascii():
        number = keys.pop(0)
        if len(number) > 4 or int(number) >= len(entries):
            last = f"its last entry is {len(entries) - 1}" if entries else "it is empty"
            raise ValueError(f"{dotted(path)} has no entry {number[:20]}; {last}")
        return int(number)
    if len(entries) != 1:
        where = dotted((*path, 0, *keys))
        raise ValueError(f"{dotted(path)} is a list of {len(entries)}; say which, as in {where}")
    return 0


def _section(node: Any, path: Path, root: type[Part]) -> dict[str, Any]:
    """A mapping that keys can be put into, for what stands at `path`."""
    family = next((kind for field in fields_at(root, path) if (kind := family_of(field.annotation))), None)
    if family is not None and (node is None or isinstance(node, str)):
        default = default_at(root, path)
        name = default.key if node is None and isinstance(default, Choice) else node
        return {} if name is None else {"name": name}
    if node is not None:
        raise ValueError(f"{dotted(path)} is {what(node)}, which has no keys of its own")
    return {}


def dotted(path: Sequence[str | int]) -> str:
    """A key path as it is written in an override."""
    return ".".join(show_key(str(key)) for key in path)
