"""Changing some values of a YAML text while every other character, comments above all, stays where it is.

A text is brought to hold other values by comparing the two trees: only what differs is written, in its own place. What
comes out is read again, so a text that cannot be changed in this way is refused rather than spoilt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ruamel.yaml.nodes import MappingNode, Node

from . import yaml_render as render
from . import yaml_spans as spans
from .rewriter import CannotEditError, Rewriter, same

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tuner.yaml_text import Path


def rewrite(
    text: str,
    wanted: Mapping[str, Any],
    order: Callable[[Path], Sequence[str]],
    said: Mapping[Path, str] | None = None,
) -> str:
    """The text with other values.

    Args:
        text: a mapping that `yaml_text.parse` takes; an empty text is an empty mapping.
        wanted: the values it is to hold.
        order: of the keys of the section at a path, for those that are not there yet.
        said: comments that take the place of those at the end of a line whose value changes, by path; `{...}` is then
            written anew.

    Raises: CannotEditError where the text has faults, or is written in a way that cannot be followed.
    """
    document = spans.document(text)
    if document.faults:
        fault = document.faults[0]
        raise CannotEditError(
            f"line {fault.place.line} of the recipe cannot be read: {fault.text}", "mend that line first"
        )
    given = document.value
    if not isinstance(given, dict) and given is not None:
        raise CannotEditError("the recipe must be a mapping (a line for each key)", "mend its text first")
    if same(given or {}, wanted):
        return text
    root = spans.compose(text)
    if root is None or not given:
        made = _begun(text, wanted, root)
    else:
        assert isinstance(root, MappingNode)
        if set(given) & set(wanted):
            writer = Rewriter(text, order, said or {})
            writer.mapping(root, given, wanted, ())
            made = writer.text()
        else:
            made = _begun(text[: spans.start(root)], wanted, None)
    return _checked(made, wanted)


def _begun(text: str, wanted: Mapping[str, Any], root: Node | None) -> str:
    """The first values of a text that has none: behind its comments, or in place of its empty brackets."""
    lines = [line for key, value in wanted.items() for line in render.pair(key, value, section=True)]
    body = "\n".join(lines) + "\n"
    if root is not None:
        before, after = text[: spans.start(root)], text[root.end_mark.index :]
        return before + body.rstrip("\n") + after
    return text + ("" if not text or text.endswith("\n") else "\n") + body


def _checked(made: str, wanted: Mapping[str, Any]) -> str:
    document = spans.document(made)
    if document.faults and "larger than" in document.faults[0].text:
        raise CannotEditError("the recipe would be too long", "make its lists and texts shorter")
    if document.faults or not same(document.value, wanted):
        raise CannotEditError(
            "this place of the recipe is written in a way that the form cannot change", "change it in the YAML text"
        )
    return made
