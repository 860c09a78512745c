"""A recipe's text and its form, each from the other: the text is the truth, and a comment in it is never lost.

A key that the form changes is changed in its own place; `reset` takes it away, and the comment at the end of its line.
"""

from __future__ import annotations

import ast
import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner.errors import RecipeError, UsageError
from tuner.overrides import Override, apply
from tuner.part_types import fields_at
from tuner.parts import Choice
from tuner.recipe import Recipe
from tuner.recipe_file import Reading, read_text
from tuner.wording import quoted

from . import schema_walk as walk
from . import yaml_spans as spans
from .fields import Field, Form, form, order, start_of
from .rewriting import CannotEditError, rewrite, same

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tuner.yaml_text import Path

__all__ = ["CannotEditError", "Problem", "form_of", "problems", "read", "reset", "revise", "set_value", "values"]

NAME = "recipe"
"""What messages call the text."""
_LINE = re.compile(rf"{NAME}:(?P<line>\d+):(?P<column>\d+): (?P<rest>.*)", re.DOTALL)
_WORD = r"(?:[\w-]{1,60}|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_KEY = re.compile(rf"(?P<path>{_WORD}(?:\.{_WORD})*): (?P<text>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a recipe's text."""

    line: int
    """From 1."""
    column: int
    path: str
    """The field's, as the form has it; empty where it is about the text."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        key = f"{self.path}: " if self.path else ""
        return f"line {self.line}: {key}{self.message}" + (f"; {self.hint}" if self.hint else "")


def read(text: str) -> Reading | list[Problem]:
    """The recipe that a text describes, or everything that is wrong with it, in the order of its lines."""
    try:
        return read_text(text, NAME)
    except RecipeError as error:
        return sorted(map(_problem, error.problems), key=lambda problem: (problem.line, problem.column))


def problems(text: str) -> list[Problem]:
    """Everything that is wrong with a recipe's text; empty where it is sound."""
    found = read(text)
    return found if isinstance(found, list) else []


def form_of(text: str) -> Form:
    """The fields and values of a text that can be read as YAML, however wrong its values are.

    Raises: RecipeError where it cannot.
    """
    return form(_tree(text))


def values(text: str) -> dict[str, Any]:
    """What a text says of each field, or the field's default. Raises: RecipeError as `form_of`."""
    return form_of(text).values


def set_value(text: str, path: str, value: Any) -> str:
    """The text with one field changed, in its own place; unchanged where it says so already.

    Args:
        text: as for `form_of`.
        path: of one of the form's fields.
        value: plain; of a family the member's name, of a section that can be off whether it is on.

    Raises: RecipeError as `form_of`; UsageError for a path that the form has not, or a value that cannot stand there.
    """
    tree = _tree(text)
    shown = form(tree)
    field = _field(shown, path)
    if same(shown.values[path], value):
        return text
    wanted = copy.deepcopy(tree)
    if field.section and field.kind == "switch":
        if value is True:
            _put(wanted, path, start_of(_unnumbered(path)))
        else:
            _take(wanted, _keys(path))
    elif field.section:
        _choose(wanted, field, value)
    else:
        _put(wanted, path, copy.deepcopy(value))
    return revise(text, wanted)


def reset(text: str, path: str) -> str:
    """The text without this key, so that its default holds.

    Raises: RecipeError as `form_of`; UsageError for a path that the form has not, or a key that has no default.
    """
    tree = _tree(text)
    field = _field(form(tree), path)
    if field.required or path.rpartition(".")[2].isdecimal():
        raise UsageError(f"{path} has no default", "choose a value")
    wanted = copy.deepcopy(tree)
    _take(wanted, _keys(path))
    return revise(text, wanted)


def revise(text: str, wanted: Mapping[str, Any], said: Mapping[Path, str] | None = None) -> str:
    """The text brought to hold these values, changed where they differ and nowhere else.

    Args:
        text: as for `form_of`, or empty.
        wanted: plain values.
        said: comments for the ends of changed lines, by path, in place of those that are there.

    Raises: CannotEditError.
    """
    return rewrite(text, wanted, lambda path: order(wanted, path), said)


def _tree(text: str) -> dict[str, Any]:
    """Its values, not to be changed. Raises: RecipeError."""
    document = spans.document(text)
    if document.faults:
        raise RecipeError([f"line {fault.place.line}: {fault.text}" for fault in document.faults])
    if document.value is not None and not isinstance(document.value, dict):
        raise RecipeError(["line 1: the recipe must be a mapping (a line for each key), not a single value or list"])
    return document.value or {}


def _field(shown: Form, path: str) -> Field:
    found = shown.field(path)
    if found is None:
        raise UsageError(f"the form has no field {quoted(path)}", "reload the page")
    return found


def _keys(path: str) -> list[str]:
    return path.split(".")


def _unnumbered(path: str) -> str:
    return ".".join(key for key in _keys(path) if not key.isdecimal())


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    """As a `key=value` on the command line. Raises: UsageError."""
    try:
        apply(tree, Override(path, tuple(_keys(path)), value), Recipe)
    except ValueError as error:
        raise UsageError(f"{path} cannot be set: {error}", "change it in the YAML text") from None


def _take(tree: Any, keys: list[str]) -> None:
    """Take a key away, where it is."""
    *path, last = keys
    for key in path:
        tree = _inside(tree, key)
    if isinstance(tree, list) and len(tree) == 1:
        tree = tree[0]
    if isinstance(tree, dict):
        tree.pop(last, None)


def _inside(tree: Any, key: str) -> Any:
    """The value of a key; number 0 of what is no list is itself, and a list of one stands for its entry."""
    if key.isdecimal():
        if not isinstance(tree, list):
            return tree
        return tree[int(key)] if int(key) < len(tree) else None
    return tree.get(key) if isinstance(tree, dict) else None


def _choose(tree: dict[str, Any], field: Field, value: Any) -> None:
    """Give a family another member, which keeps the keys that both have. Raises: UsageError."""
    keys = _keys(field.path)
    if value is None and field.optional:
        _take(tree, keys)
        return
    family = _family(field.path)
    member = family.family.get(value) if isinstance(value, str) else None
    if member is None:
        raise UsageError(
            f"{field.path}: there is no {quoted(str(value))}", f"there is {', '.join(sorted(family.family))}"
        )
    old: Any = tree
    for key in keys:
        old = _inside(old, key)
    kept = {key: inner for key, inner in old.items() if key in member.model_fields} if isinstance(old, dict) else {}
    _put(tree, field.path, {"name": value, **kept} if isinstance(old, dict) else value)


def _family(path: str) -> type[Choice]:
    for info in fields_at(Recipe, _keys(_unnumbered(path))):
        kind = walk.lone_part(info.annotation) or walk.entries_of(info.annotation)
        if kind is not None and issubclass(kind, Choice):
            return kind
    raise UsageError(f"{path} chooses nothing", "reload the page")


def _problem(line: str) -> Problem:
    """A line of a RecipeError, taken apart."""
    place = _LINE.match(line)
    if place is None:
        return Problem(1, 1, "", line.removeprefix(f"{NAME}: "))
    key = _KEY.fullmatch(place["rest"])
    path, said = (key["path"], key["text"]) if key else ("", place["rest"])
    message, _, hint = said.partition("; ")
    return Problem(int(place["line"]), int(place["column"]), _numbered(path), message, hint)


def _numbered(path: str) -> str:
    """A path as the form has it: an entry that stands alone, where a list may, is number 0."""
    if not path:
        return ""
    made: list[str] = []
    for key in re.findall(_WORD, path):
        listed = made and any(walk.entries_of(info.annotation) for info in fields_at(Recipe, made))
        if listed and not made[-1].isdecimal() and not key.isdecimal():
            made.append("0")
        made.append(ast.literal_eval(key) if key[0] in "'\"" else key)
    return ".".join(made)
