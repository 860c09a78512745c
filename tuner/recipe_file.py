"""From a recipe file and `key=value` overrides to a Recipe, or every mistake in them at once, each with its place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from .errors import RecipeError, UsageError
from .overrides import Override, apply, dotted, read_override
from .parts import NO_EFFECT
from .recipe import Recipe
from .rehearsal import Rehearsal, rehearsal_changes, rehearse
from .resolved import resolved_yaml, scrub, scrubbed_yaml
from .shipped import shipped_recipe
from .wording import quoted
from .yaml_text import MAX_BYTES, Document, Fault, Place, decode, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

    from .yaml_text import Path as KeyPath

__all__ = [
    "Reading",
    "load_recipe",
    "open_recipe",
    "read_recipe",
    "read_text",
    "rehearsal_changes",
    "resolved_yaml",
    "scrub",
    "scrubbed_yaml",
]

MAX_PROBLEMS = 50
"""Problems that one message lists."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A recipe and how it came about."""

    recipe: Recipe
    name: str
    """The file, as it is named in messages."""
    given: str
    """Its text."""
    changes: tuple[tuple[str, Any], ...] = ()
    """What `--rehearse` set, as (key, value)."""
    notes: tuple[str, ...] = ()
    """What else `--rehearse` did, one line each."""


def load_recipe(source: str | Path, overrides: Sequence[str] = (), *, rehearse: bool = False) -> Recipe:
    """The recipe in a file, or the shipped one of that name.

    Args:
        source: a path, or a shipped recipe's name with or without `.yaml` and `recipes/`; a path that exists wins.
        overrides: `key=value` edits, such as `train.steps=400`.
        rehearse: scale it down to the small model that ships here.

    Raises: RecipeError with every problem, one a line; UsageError where there is no such recipe.
    """
    return open_recipe(source, overrides, rehearse=rehearse).recipe


def open_recipe(source: str | Path, overrides: Sequence[str] = (), *, rehearse: bool = False) -> Reading:
    """As `load_recipe`, with the file's text and what `rehearse` changed."""
    path = Path(source) if os.path.exists(source) else shipped_recipe(str(source))
    name = _shown(path)
    try:
        if not path.is_file():
            raise UsageError(f"{name} is not a file", "name a recipe file, or a shipped recipe (`tuner ls`)")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = decode(data)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise RecipeError([f"{name}:{error}"]) from None
    return read_text(text, name, overrides, rehearse=rehearse)


def read_recipe(text: str, name: str, overrides: Sequence[str] = (), *, rehearse: bool = False) -> Recipe:
    """The recipe that a text describes; `name` stands for it in messages. Raises: RecipeError."""
    return read_text(text, name, overrides, rehearse=rehearse).recipe


def read_text(text: str, name: str, overrides: Sequence[str] = (), *, rehearse: bool = False) -> Reading:
    """As `read_recipe`, with what `rehearse` changed."""
    draft = _Draft(name, parse(text))
    draft.root()
    for edit in overrides:
        draft.edit(edit)
    scaled = draft.rehearse() if rehearse else Rehearsal(draft.tree)
    recipe = draft.validate(scaled)
    return Reading(recipe, name, text, tuple(scaled.lines()), tuple(scaled.notes))


def _shown(path: Path) -> str:
    """A path as messages name it: from the working directory where it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the working directory is gone
        return str(path)


class _Draft:
    """A recipe on its way: its values, where each came from, and what is wrong so far."""

    def __init__(self, name: str, document: Document) -> None:
        self.name, self.document = name, document
        self.tree: dict[str, Any] = document.value if isinstance(document.value, dict) else {}
        self.edits: list[tuple[KeyPath, Override]] = []
        self.problems: list[tuple[Place, str]] = [(fault.place, self.line(fault)) for fault in document.faults]
        self.wrong_edits: list[str] = []

    def line(self, fault: Fault) -> str:
        key = f"{dotted(fault.path)}: " if fault.path else ""
        return f"{self.name}:{fault.place}: {key}{fault.text}"

    def root(self) -> None:
        """Refuse a file that is no mapping. Raises: RecipeError; nothing after this could be told."""
        if not isinstance(self.document.value, dict):
            if not self.problems:
                empty = self.document.value is None
                text = "is empty" if empty else "must be a mapping (a line for each key), not a single value or list"
                self.problems.append((Place(1, 1), f"{self.name}:1:1: the file {text}"))
            self.give_up()

    def edit(self, text: str) -> None:
        try:
            override = read_override(text)
            self.edits.append((apply(self.tree, override, Recipe), override))
        except ValueError as error:
            self.wrong_edits.append(f"override {quoted(text)}: {error}")

    def rehearse(self) -> Rehearsal:
        return rehearse(self.tree, [path for path, _ in self.edits])

    def validate(self, scaled: Rehearsal) -> Recipe:
        """The Recipe. A key of the preset that has no effect in this recipe is withdrawn. Raises: RecipeError."""
        while True:
            try:
                recipe = Recipe.model_validate(scaled.tree)
            except ValidationError as error:
                found = error.errors(include_url=False)
            else:
                if self.problems or self.wrong_edits:
                    self.give_up()
                return recipe
            idle = [path for e in found if e["type"] == NO_EFFECT and (path := _path(scaled.tree, e)) in scaled.changes]
            for path in idle:
                scaled.withdraw(path)
            if not idle:
                for e in found:
                    self.add(scaled, e)
                self.give_up()

    def add(self, scaled: Rehearsal, e: ErrorDetails) -> None:
        """Note an error of the validation, unless a fault of the text at, in or around the same key explains it."""
        path = _path(scaled.tree, e)
        faulty = [fault.path for fault in self.document.faults]
        if any(path[: len(at)] == at or (path and at[: len(path)] == path) for at in faulty):
            return
        text = f"{dotted(path)}: {e['msg']}" if path else e["msg"]
        edit = next((edit for at, edit in reversed(self.edits) if path[: len(at)] == at), None)
        if edit is None and path not in self.document.keys:
            edit = next((edit for at, edit in reversed(self.edits) if path and at[: len(path)] == path), None)
        if edit is not None:
            self.wrong_edits.append(f"{edit}: {text}")
        elif path in scaled.changes:
            self.wrong_edits.append(f"--rehearse: {text}")
        else:
            place = self.place(path, e["type"])
            self.problems.append((place, f"{self.name}:{place}: {text}"))

    def place(self, path: KeyPath, kind: str) -> Place:
        """Where to look: the value that is wrong, the key of a section that is, the parent of a key that is missing."""
        value = self.at(path)
        single = (
            value is not None and not isinstance(value, (dict, list)) and kind not in ("extra_forbidden", NO_EFFECT)
        )
        if single and path in self.document.values:
            return self.document.values[path]
        while path and path not in self.document.keys:
            path = path[:-1]
        return self.document.keys.get(path, Place(1, 1))

    def at(self, path: KeyPath) -> Any:
        node: Any = self.tree
        for key in path:
            node = _child(node, key)
        return node

    def give_up(self) -> NoReturn:
        lines = [line for _, line in sorted(self.problems, key=lambda problem: problem[0])] + self.wrong_edits
        lines = list(dict.fromkeys(lines))
        if len(lines) > MAX_PROBLEMS:
            lines = [*lines[:MAX_PROBLEMS], f"{self.name}: and {len(lines) - MAX_PROBLEMS} more problems"]
        raise RecipeError(lines)


def _path(tree: Any, e: ErrorDetails) -> KeyPath:
    """An error's key path as the file has it: a part that stands alone, where a list may, has no number."""
    path: list[str | int] = []
    node = tree
    for key in e["loc"]:
        if isinstance(key, int) and not isinstance(node, list):
            continue
        path.append(key)
        node = _child(node, key)
    return tuple(path)


def _child(node: Any, key: str | int) -> Any:
    if isinstance(node, list):
        return node[key] if isinstance(key, int) and key < len(node) else None
    return node.get(key) if isinstance(node, dict) else None
