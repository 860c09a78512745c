"""What the fields of a Part may hold, read off their annotations: the map that overrides, help and schema walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_origin

from .parts import Choice, Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo


def part_types(annotation: Any) -> list[type[Part]]:
    """The Part classes that an annotation names, at any depth; a family counts as one."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return [annotation]
    return [kind for inner in get_args(annotation) for kind in part_types(inner)]


def takes_list(annotation: Any) -> bool:
    """Whether a list is one of the values that an annotation allows."""
    return get_origin(annotation) in (list, tuple) or any(
        takes_list(inner) for inner in get_args(annotation) if get_origin(annotation) not in (list, tuple)
    )


def family_of(annotation: Any) -> type[Choice] | None:
    """The family that a field chooses from, if it is a Choice."""
    return next((kind for kind in part_types(annotation) if issubclass(kind, Choice) and kind.opens_family), None)


def concrete(kind: type[Part]) -> Sequence[type[Part]]:
    """The classes that a value of this type can have: every member of a family, else the class itself."""
    return list(kind.family.values()) if issubclass(kind, Choice) and kind.opens_family else [kind]


def fields_at(root: type[Part], keys: Sequence[str | int]) -> Iterator[FieldInfo]:
    """Every field that a key path may mean: a family's members may each have one. Numbers are places in a list."""
    names = [key for key in keys if isinstance(key, str)]
    if not names:
        return
    field = root.model_fields.get(names[0])
    if field is None:
        return
    if len(names) == 1:
        yield field
        return
    for kind in part_types(field.annotation):
        for member in concrete(kind):
            yield from fields_at(member, names[1:])


def default_at(root: type[Part], keys: Sequence[str | int]) -> Any:
    """The default of a key, or None where it has none."""
    for field in fields_at(root, keys):
        if not field.is_required():
            return field.get_default(call_default_factory=True)
    return None
