"""What kind of widget a key of a recipe takes, read off its annotation."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from tuner.data.sources import Source
from tuner.part_types import family_of, part_types
from tuner.parts import Choice, Part

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Kind = Literal["number", "integer", "switch", "choice", "text", "list", "yaml"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers that a field takes; None where there is no end."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    """More than this, and not this itself."""
    below: float | None = None

    def __str__(self) -> str:
        words = {"at least": self.least, "more than": self.above, "at most": self.most, "less than": self.below}
        if self.least is not None and self.most is not None:
            return f"from {self.least:g} to {self.most:g}"
        return ", ".join(f"{word} {number:g}" for word, number in words.items() if number is not None)


def bounds_of(field: FieldInfo) -> Bounds:
    found = {
        name: getattr(mark, name) for mark in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)
    }
    return Bounds(found.get("ge"), found.get("le"), found.get("gt"), found.get("lt"))


def longest(field: FieldInfo) -> int | None:
    """Characters that a text may have."""
    return next((mark.max_length for mark in field.metadata if hasattr(mark, "max_length")), None)


def ways(annotation: Any) -> list[Any]:
    """The choices of a union, without None and Annotated."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return ways(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [way for inner in get_args(annotation) for way in ways(inner)]
    return [] if annotation is type(None) else [annotation]


def takes_null(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return takes_null(get_args(annotation)[0])
    return annotation is type(None) or (
        origin in (Union, types.UnionType) and any(takes_null(inner) for inner in get_args(annotation))
    )


def lone_part(annotation: Any) -> type[Part] | None:
    """The section or family that a field is, where it is nothing else (but null)."""
    only = ways(annotation)
    return only[0] if len(only) == 1 and isinstance(only[0], type) and issubclass(only[0], Part) else None


def entries_of(annotation: Any) -> type[Part] | None:
    """What the entries of a list are that each have fields of their own: a family, or a source of pictures.

    Lists of other parts are short and rare: their field holds YAML.
    """
    only = ways(annotation)
    if len(only) != 1 or get_origin(only[0]) is not tuple:
        return None
    kinds = part_types(only[0])
    if len(kinds) != 1:
        return None
    kind = kinds[0]
    own = family_of(only[0]) is not None or issubclass(kind, Source)
    return kind if own else None


def literals(annotation: Any) -> tuple[Any, ...]:
    """Every name that an annotation lists."""
    return tuple(
        name
        for way in ways(annotation)
        for name in (
            get_args(way)
            if get_origin(way) is Literal
            else literals(get_args(way)[0])
            if get_origin(way) in (tuple, list)
            else ()
        )
    )


SCALARS: dict[Any, Kind] = {bool: "switch", int: "integer", float: "number", str: "text"}


def kind_of(annotation: Any) -> Kind:
    """The widget of a value that is no section; `yaml` for what has none of its own."""
    only = ways(annotation)
    if len(only) != 1:
        return "yaml"
    way = only[0]
    if way is bool and takes_null(annotation):
        return "choice"
    if way in SCALARS:
        return SCALARS[way]
    if get_origin(way) is Literal:
        return "choice"
    inner = get_args(way)
    if get_origin(way) is tuple and len(inner) == 2 and inner[1] is ...:
        entry = ways(inner[0])
        if entry == [str] or (len(entry) == 1 and get_origin(entry[0]) is Literal):
            return "list"
    return "yaml"


def member_of(kind: type[Part], node: Any, default: Any = None) -> type[Part] | None:
    """The class that a value of a recipe chooses: of a family by its name; None where it names none that is there."""
    if not (issubclass(kind, Choice) and kind.opens_family):
        return kind
    if node is None:
        return type(default) if isinstance(default, kind) else None
    name = node.get("name") if isinstance(node, dict) else node
    return kind.family.get(name) if isinstance(name, str) else None


def keys_of(kind: type[Part]) -> tuple[str, ...]:
    """A section's keys in the order of a recipe."""
    first = ("name",) if issubclass(kind, Choice) else ()
    return (*first, *kind.model_fields)
