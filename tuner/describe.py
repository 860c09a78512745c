"""The help of every key of a recipe, read off the types: what `tuner show` prints beside each value."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from .part_types import concrete, family_of
from .parts import Choice, Part
from .resolved import resolved_tree
from .schema import json_schema, schema_text
from .yaml_write import to_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .recipe import Recipe
    from .yaml_text import Path

__all__ = ["Key", "describe", "json_schema", "keys_of", "schema_text", "show"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a recipe or part."""

    path: Path
    kind: str
    """Its type and range in words: `a whole number from 1 to 1024`."""
    default: str
    """As a recipe would write it; `required` where there is none."""
    help: str
    """What it does for the user, one sentence."""
    choices: tuple[str, ...] = ()
    """The names it chooses from."""

    def __str__(self) -> str:
        given = "required" if self.default == "required" else f"default {self.default}"
        gap = " " if len(self.help) + len(self.kind) < 80 else "\n"
        return f"{self.help.rstrip('.')}{gap}({self.kind}; {given})"


def show(recipe: Recipe) -> str:
    """A recipe with every default written out and its help above each key; itself a valid recipe file."""
    return to_yaml(resolved_tree(recipe), {key.path: str(key) for key in keys_of(recipe)})


def keys_of(recipe: Recipe) -> list[Key]:
    """Every key of a recipe that has an effect in it, in order."""
    return list(_walk(recipe, resolved_tree(recipe), ()))


def describe(part: type[Part]) -> list[Key]:
    """The keys of one part, such as `LoRA`; of a family, its name."""
    own = [_name_key(part)] if issubclass(part, Choice) else []
    if issubclass(part, Choice) and part.opens_family:
        return own
    return own + [_key((name,), field) for name, field in part.model_fields.items()]


def _walk(part: Part, tree: dict[str, Any], path: Path) -> Iterator[Key]:
    if isinstance(part, Choice):
        key = _name_key(type(part))
        yield Key((*path, "name"), key.kind, key.default, key.help, key.choices)
    for name, field in type(part).model_fields.items():
        if name not in tree:
            continue
        yield _key((*path, name), field)
        value = getattr(part, name)
        if isinstance(value, Part):
            yield from _walk(value, tree[name], (*path, name))
        elif isinstance(value, tuple):
            for index, entry in enumerate(value):
                if isinstance(entry, Part):
                    yield from _walk(entry, tree[name][index], (*path, name, index))


def _name_key(part: type[Choice]) -> Key:
    names = tuple(sorted(part.family))
    text = (part.__doc__ or "").strip().splitlines()[0]
    return Key(("name",), f"one of {', '.join(names)}", "required", text, names)


def _key(path: Path, field: FieldInfo) -> Key:
    return Key(
        path, _words(field.annotation, field.metadata), _default(field), field.description or "", _choices(field)
    )


def _choices(field: FieldInfo) -> tuple[str, ...]:
    family = family_of(field.annotation)
    return tuple(sorted(family.family)) if family else tuple(_literals(field.annotation))


def _literals(annotation: Any) -> Iterator[str]:
    for inner in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(inner)
        else:
            yield from _literals(inner)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Choice):
        return value.key
    if isinstance(value, Part):
        return "as below"
    if isinstance(value, tuple):
        return "[" + ", ".join(str(entry) for entry in value) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value) if value != "" else '""'


SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """An annotation in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(inner[0], inner[1:])
    if origin in (Union, types.UnionType):
        ways = " or ".join(_words(way, metadata) for way in inner)
        return ways.replace("one or a list", "a list") if len(set(inner) - {type(None)}) > 1 else ways
    if origin is Literal:
        return f"one of {', '.join(str(name) for name in inner)}"
    if origin in (tuple, list):
        one = _words(inner[0])
        return (
            f"one or a list of: {one}" if len(inner) == 2 and inner[1] is ... else f"a list of {len(inner)}: {one} each"
        )
    if annotation in SCALARS:
        return SCALARS[annotation] + _range(annotation, metadata)
    return _part_words(annotation)


def _part_words(kind: type[Part]) -> str:
    if issubclass(kind, Choice) and kind.opens_family:
        return f"one of {', '.join(sorted(kind.family))}, or a mapping with that name"
    own = [name for member in concrete(kind) for name in member.model_fields]
    return f"a mapping with {', '.join(own)}" if len(own) <= 2 else "a mapping"


def _range(kind: Any, metadata: Sequence[Any]) -> str:
    """The bounds of a number, in words."""
    if kind not in (int, float):
        return ""
    marks = [mark for entry in metadata for mark in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    bound = {name: getattr(mark, name) for mark in marks for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)}
    if "lt" in bound and kind is int:
        bound["le"] = bound.pop("lt") - 1
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    if "ge" in bound and "le" in bound:
        return f" from {bound['ge']} to {bound['le']}"
    said = [f"{words[name]} {bound[name]}" for name in ("gt", "ge", "le", "lt") if name in bound]
    return f", {', '.join(said)}" if said else ""
