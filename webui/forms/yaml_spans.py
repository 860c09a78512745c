"""Where each value of a YAML text stands, in characters, so that one can be changed and all else stay as it is."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tuner.yaml_text import Document, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMENT = re.compile(r"(?P<gap>[ \t]+)(?P<comment>#[^\r\n]*)")


@lru_cache(maxsize=8)
def document(text: str) -> Document:
    """What a text holds, read once however many look at it; not to be changed."""
    return parse(text)


@lru_cache(maxsize=8)
def compose(text: str) -> Node | None:
    """The nodes of a text that `document` has found sound, not to be changed; None where it holds no value."""
    return YAML(typ="safe", pure=True).compose(text)  # type: ignore[no-untyped-call]


def pairs(node: MappingNode) -> list[tuple[str, Node, Node]]:
    """(key, its node, its value's node) of a mapping, in order."""
    return [(key.value, key, value) for key, value in node.value]


def items(node: SequenceNode) -> Sequence[Node]:
    return node.value


def in_brackets(node: Node) -> bool:
    """Whether a list or mapping is written within brackets."""
    return isinstance(node, (MappingNode, SequenceNode)) and bool(node.flow_style)


def is_block(node: Node) -> bool:
    """Whether a value stands on lines of its own: a list or mapping without brackets that is not empty."""
    return isinstance(node, (MappingNode, SequenceNode)) and not node.flow_style


def start(node: Node) -> int:
    return node.start_mark.index


def end(text: str, node: Node) -> int:
    """Where the last character of a value is behind; what follows it, such as a comment, is not its own."""
    if is_block(node):
        last = node.value[-1]
        return end(text, last[1] if isinstance(node, MappingNode) else last)
    at = node.end_mark.index
    if isinstance(node, ScalarNode) and node.style in ("|", ">"):
        while at > start(node) and text[at - 1] in "\r\n \t":
            at -= 1
    return at


def line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def line_end(text: str, at: int) -> int:
    """Where the line ends that holds `at`, without its line break."""
    found = text.find("\n", at)
    if found < 0:
        return len(text)
    return found - 1 if found > at and text[found - 1] == "\r" else found


def next_line(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def comment_after(text: str, at: int) -> re.Match[str] | None:
    """The comment at the end of the line, where nothing but space is between it and `at`."""
    return _COMMENT.match(text, at)


def dash_of(text: str, node: Node, column: int) -> int:
    """Where the dash stands in front of an item of a list whose dashes are in this column."""
    at = start(node)
    line = line_start(text, at)
    while True:
        dash = line + column
        if dash < len(text) and text[dash] == "-" and dash <= at:
            return dash
        if line == 0:
            return at
        line = line_start(text, line - 1)
