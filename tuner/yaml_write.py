"""Writing plain values as YAML 1.2 that `yaml_text` reads back as the same values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from .yaml_text import plain_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .yaml_text import Path

PLAIN = re.compile(r"[A-Za-z0-9_./~+(][\w ./~+()*'=@<>%$,;!?-]*", re.ASCII)
ESCAPED = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ud800-\udfff]")
WIDTH = 120


def to_yaml(tree: Mapping[str, Any], comments: Mapping[Path, str] | None = None) -> str:
    """A mapping of str, int, float, bool, None, lists and mappings, in block style.

    Args:
        tree: the values.
        comments: lines of text to put above a key, by its path.
    """
    return "".join(line + "\n" for line in _mapping(tree, (), comments or {}))


def _mapping(tree: Mapping[str, Any], path: Path, comments: Mapping[Path, str]) -> Iterator[str]:
    for key, value in tree.items():
        child = (*path, key)
        if child in comments:
            yield from (f"# {line}" for line in comments[child].splitlines())
        if not value or not isinstance(value, (dict, list, tuple)):
            yield f"{_text(key)}: {_scalar(value)}"
        elif isinstance(value, dict):
            yield f"{_text(key)}:"
            yield from ("  " + line for line in _mapping(value, child, comments))
        else:
            yield f"{_text(key)}:"
            yield from ("  " + line for line in _list(value, child, comments))


def _list(values: Any, path: Path, comments: Mapping[Path, str]) -> Iterator[str]:
    for index, value in enumerate(values):
        if isinstance(value, dict) and value:
            lines = list(_mapping(value, (*path, index), comments))
            first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
            yield from lines[:first]
            yield "- " + lines[first]
            yield from ("  " + line for line in lines[first + 1 :])
        else:
            yield f"- {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    assert not value, value  # lists of lists have no place in a recipe
    return "{}" if isinstance(value, dict) else "[]"


def _text(text: str) -> str:
    if PLAIN.fullmatch(text) and not text.endswith(" ") and isinstance(_meaning(text), str):
        return text
    # JSON's strings are YAML's double-quoted ones, but for what YAML reads as line breaks or refuses.
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _meaning(text: str) -> Any:
    try:
        return plain_value(text)
    except ValueError:
        return None
