"""The recipe's types as groups of form fields: whatever a recipe can say has one, without being listed here.

A family shows the fields of the member that is chosen; a section that is off shows its switch alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tuner.parts import Choice as Family
from tuner.parts import Part
from tuner.recipe import Recipe
from tuner.sections import DataOptions
from tuner.tasks import Task

from . import schema_walk as walk
from .field import Choice, Field, chosen, default_of, family, first_line, key_of, plain, plain_value, switch
from .labels import title

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

    from tuner.yaml_text import Path

__all__ = ["Choice", "Field", "Form", "Group", "form", "order", "start_of"]


@dataclass(frozen=True, slots=True)
class Group:
    """Fields that belong together."""

    key: str
    """Dotted path of the section, such as `train` or `data.instance.0`."""
    title: str
    help: str
    fields: tuple[Field, ...]

    @property
    def advanced(self) -> bool:
        """Whether nothing in it is what people usually change."""
        return all(one.advanced for one in self.fields)


@dataclass(slots=True)
class Form:
    """Every field of a recipe as it stands, and what it says of each."""

    groups: list[Group] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    """By path: what the recipe says, else the default. Of a family the name that is chosen; of a section that can be
    off whether it is on."""
    given: set[str] = field(default_factory=set)
    """Paths that the recipe says something of."""

    def field(self, path: str) -> Field | None:
        return next((one for group in self.groups for one in group.fields if one.path == path), None)


def form(tree: Mapping[str, Any]) -> Form:
    """The form of a recipe's plain values, sound or not; a value of the wrong kind is shown as it is."""
    made = _Maker(Form(), tree)
    for name, info in Recipe.model_fields.items():
        made.top(name, info)
    return made.form


def order(tree: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The keys of the section at a path of a recipe's values, in their usual order."""
    kind = _part_at(tree, path)
    return walk.keys_of(kind) if kind is not None else ()


def start_of(path: str) -> dict[str, Any]:
    """What a section begins as when it is switched on."""
    return dict(STARTS.get(path, {}))


STARTS: Mapping[str, Mapping[str, Any]] = {
    "train.ema": {"decay": 0.999},
    "validation": {"every": 250, "hold_out": 0.1},
    "validation.images": {"path": "held_out/"},
    "data.prior": {"caption": "a photo", "generate": 200},
    "data.images": {"path": "pictures/"},
    "data.instance": {"path": "photos/"},
    "data.pairs": {"path": "pairs/"},
}
"""Sections that need something said to be sound; any other begins empty, which takes its defaults."""


class _Maker:
    """One walk over the types, along the values of one recipe."""

    def __init__(self, made: Form, tree: Mapping[str, Any]) -> None:
        self.form, self.tree = made, tree
        self.fields: list[Field] = []

    def group(self, key: str, heading: str, text: str) -> None:
        """Close a group with the fields since the last one."""
        if self.fields:
            self.form.groups.append(Group(key, heading, text, tuple(self.fields)))
        self.fields = []

    def top(self, name: str, info: FieldInfo) -> None:
        node = self.tree.get(name)
        entries = walk.entries_of(info.annotation)
        if entries is not None:
            self.entries(name, info, entries, node)
            return
        later = self.one(info, node, (name,), None)
        self.group(name, title(name), info.description or "")
        for action in later:
            self.entries(*action)

    def one(self, info: FieldInfo, node: Any, path: Path, base: Any) -> list[tuple[str, FieldInfo, type[Part], Any]]:
        """The field or fields of one key; gives the lists in it, each entry of which is a group of its own.

        `base` is the default value of this key where the section's own default differs from the field's.
        """
        default = base if base is not None else default_of(info)
        part = walk.lone_part(info.annotation)
        dotted = ".".join(map(str, path))
        if part is None:
            self.add(plain(dotted, info, default), node, default, given=node is not None or _is_given(self.tree, path))
            return []
        member = walk.member_of(part, node, default)
        chooses = issubclass(part, Family) and part.opens_family
        if chooses:
            self.add(family(dotted, info, part, default), chosen(node), key_of(default), given=node is not None)
        elif walk.takes_null(info.annotation):
            self.add(switch(dotted, info), node is not None or None, False, given=node is not None)
        can_be_off = chooses or walk.takes_null(info.annotation)
        if member is None or (can_be_off and node is None and default is None):
            return []
        return self.inside(member, node, path, default)

    def inside(
        self, kind: type[Part], node: Any, path: Path, default: Any
    ) -> list[tuple[str, FieldInfo, type[Part], Any]]:
        own = node if isinstance(node, dict) else {}
        later = []
        for name, info in kind.model_fields.items():
            entries = walk.entries_of(info.annotation)
            child = (*path, name)
            if entries is not None:
                if not self.role_hidden(kind, name, own):
                    later.append((".".join(map(str, child)), info, entries, own.get(name)))
                continue
            base = getattr(default, name) if type(default) is kind and name not in own else None
            later += self.one(info, own.get(name), child, base)
        return later

    def role_hidden(self, kind: type[Part], name: str, own: Mapping[str, Any]) -> bool:
        """Whether it is a role of the data that the chosen task does not read, and the recipe does not give."""
        if not issubclass(kind, DataOptions) or own.get(name) is not None:
            return False
        task = walk.member_of(Task, self.tree.get("task"))
        return task is not None and name not in task.sources  # type: ignore[attr-defined]

    def entries(self, dotted: str, info: FieldInfo, kind: type[Part], node: Any) -> None:
        """A group for each entry of a list; a list that may be left out begins with its switch."""
        listed = node if isinstance(node, list) else [] if node is None else [node]
        if not listed and info.is_required():
            listed = [None]  # where its kind is chosen
        if not info.is_required():
            self.add(switch(dotted, info), node is not None or None, False, given=node is not None)
            if not listed:
                self.group(dotted, title(dotted), info.description or "")
        path: Path = tuple(dotted.split("."))
        for number, entry in enumerate(listed):
            here = f"{dotted}.{number}"
            if issubclass(kind, Family):
                self.add(family(here, info, kind, None), chosen(entry), None, given=entry is not None)
            member = walk.member_of(kind, entry)
            later = self.inside(member, entry, (*path, number), None) if member is not None else []
            count = f" {number + 1}" if len(listed) > 1 else ""
            self.group(here, title(dotted) + count, first_line(member) or info.description or "")
            for action in later:
                self.entries(*action)

    def add(self, made: Field, value: Any, default: Any, *, given: bool) -> None:
        self.fields.append(made)
        self.form.values[made.path] = plain_value(default) if value is None and not given else value
        if given:
            self.form.given.add(made.path)


def _is_given(tree: Any, path: Path) -> bool:
    """Whether a recipe says something of a key, be it null."""
    for key in path:
        if isinstance(tree, list):
            if not isinstance(key, int) or key >= len(tree):
                return False
            tree = tree[key]
        elif isinstance(key, int):
            continue
        elif not isinstance(tree, dict) or key not in tree:
            return False
        else:
            tree = tree[key]
    return True


def _part_at(tree: Any, path: Path) -> type[Part] | None:
    """The class of the section at a path."""
    kind: type[Part] | None = Recipe
    node, default = tree, None
    for number, key in enumerate(path):
        if isinstance(key, int):
            node = node[key] if isinstance(node, list) and key < len(node) else node
            continue
        if kind is None or key not in kind.model_fields:
            return None
        info = kind.model_fields[key]
        kind = walk.lone_part(info.annotation) or walk.entries_of(info.annotation)
        if kind is None:
            return None
        node, default = node.get(key) if isinstance(node, dict) else None, default_of(info)
        entry = node
        if isinstance(node, list):
            following = path[number + 1] if number + 1 < len(path) else None
            entry = node[following] if isinstance(following, int) and following < len(node) else None
        kind = walk.member_of(kind, entry, default)
    return kind
