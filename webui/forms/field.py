"""One key of a recipe as a form field: its help, bounds and choices, read off the recipe's types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tuner.describe import describe
from tuner.part_types import concrete, part_types
from tuner.parts import Choice as Family
from tuner.parts import Part
from tuner.recipe import Recipe
from tuner.shipped import shipped
from tuner.yaml_text import parse

from . import schema_walk as walk
from .labels import label
from .schema_walk import Bounds, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

ANY = Bounds()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the values that a field chooses from."""

    value: str | bool | None
    text: str
    """For people."""


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a recipe."""

    path: str
    """Dotted, such as `train.lr` or `adapters.0.rank`; entries of a list by number, also where there is one."""
    label: str
    help: str
    """The sentence under the field in the recipe's types."""
    kind: Kind
    words: str
    """What it takes, in words: `a whole number from 1 to 1024`."""
    bounds: Bounds = ANY
    longest: int | None = None
    """Characters that a text may have."""
    choices: tuple[Choice, ...] = ()
    """Of a `choice` all there are; of a `list` or `yaml` what may stand in it by name."""
    default: Any = None
    """None where there is none."""
    required: bool = False
    optional: bool = False
    """Whether null is a value, which says `leave it out`."""
    advanced: bool = False
    """Whether no recipe that ships sets it."""
    section: bool = False
    """Whether it switches on fields of its own."""


def plain(path: str, info: FieldInfo, default: Any) -> Field:
    """The field of a value that is no section."""
    key = path.rpartition(".")[2]
    kind, null = walk.kind_of(info.annotation), walk.takes_null(info.annotation)
    names = [Choice(name, str(name)) for name in walk.literals(info.annotation)]
    if kind == "choice" and not names:
        names = [Choice(True, "yes"), Choice(False, "no")]
    if kind == "choice" and null:
        names.insert(0, Choice(None, "leave it to the program"))
    return Field(
        path,
        label(key),
        _help(info),
        kind,
        _words(info),
        walk.bounds_of(info),
        walk.longest(info),
        tuple(names),
        plain_value(default),
        info.is_required(),
        null,
        _advanced(path, required=info.is_required()),
    )


def family(path: str, info: FieldInfo, kind: type[Part], default: Any) -> Field:
    """The field that chooses a member."""
    assert issubclass(kind, Family)
    names = [Choice(name, f"{name}: {first_line(kind.family[name])}".rstrip(": ")) for name in sorted(kind.family)]
    null = walk.takes_null(info.annotation)
    if null:
        names.insert(0, Choice(None, "the base's own"))
    own = [part for part in path.split(".") if not part.isdecimal()][-1]
    return Field(
        path,
        label(own),
        _help(info) or first_line(kind),
        "choice",
        _words(info),
        choices=tuple(names),
        default=key_of(default),
        required=default is None and not null,
        optional=null,
        advanced=_advanced(path, required=info.is_required()),
        section=True,
    )


def switch(path: str, info: FieldInfo) -> Field:
    """The field that switches a section on."""
    key = path.rpartition(".")[2]
    return Field(
        path,
        label(key),
        _help(info),
        "switch",
        "on or off",
        default=False,
        optional=True,
        advanced=_advanced(path, required=False),
        section=True,
    )


def _help(info: FieldInfo) -> str:
    return " ".join((info.description or "").split())


def _words(info: FieldInfo) -> str:
    """A field's type and range, as `tuner show` puts them."""
    return _described().get(id(info), "")


@cache
def _described() -> dict[int, str]:
    """What each field takes in words, by the identity of its FieldInfo, which lives as long as its class."""
    found: dict[int, str] = {}
    for kind in _all_parts(Recipe, set()):
        words = {key.path[-1]: key.kind for key in describe(kind)}
        found |= {id(info): words[name] for name, info in kind.model_fields.items()}
    return found


def _all_parts(kind: type[Part], seen: set[type[Part]]) -> Iterator[type[Part]]:
    for member in concrete(kind):
        if member in seen:
            continue
        seen.add(member)
        yield member
        for info in member.model_fields.values():
            for inner in part_types(info.annotation):
                yield from _all_parts(inner, seen)


def first_line(kind: type[Part] | None) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0] if kind is not None else ""


def default_of(info: FieldInfo) -> Any:
    return None if info.is_required() else info.get_default(call_default_factory=True)


def key_of(value: Any) -> str | None:
    return value.key if isinstance(value, Family) else None


def chosen(node: Any) -> Any:
    """The name that a value of a family gives."""
    return node.get("name") if isinstance(node, dict) else node


def plain_value(value: Any) -> Any:
    """A default as a recipe's plain values have it."""
    if isinstance(value, Family):
        return value.key
    if isinstance(value, Part):
        return value.model_dump(mode="json")
    return [plain_value(inner) for inner in value] if isinstance(value, (tuple, list)) else value


@cache
def _usual() -> frozenset[str]:
    """Keys that some shipped recipe sets: what people change."""
    found: set[str] = set()

    def note(node: Any, path: tuple[str, ...]) -> None:
        found.add(".".join(path))
        inner: Sequence[tuple[str, Any]] = ()
        if isinstance(node, dict):
            inner = list(node.items())
        elif isinstance(node, list):
            inner = [("*", entry) for entry in node]
        for key, value in inner:
            note(value, (*path, key))

    for file in shipped().values():
        note(parse(file.read_text("utf-8")).value, ())
    return frozenset(key.replace(".*", "") for key in found)


def _advanced(path: str, *, required: bool) -> bool:
    plain = ".".join(part for part in path.split(".") if not part.isdecimal())
    return not required and plain not in _usual()
