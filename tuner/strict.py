"""One meaning for each value: no text for a number, no number for true, one kind of value for each choice of a union.

pydantic's own strict mode also refuses a list for a tuple and a mapping for a Part, so strictness is put on the
scalars of its schema instead, once for every Part.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic_core import CoreSchema, core_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that no YAML file holds, so no text of a recipe may either."""

TAG = "value is "
"""How the label of a union's choice begins in an error's location; labels are no part of a key path."""

KINDS = {"mapping": "a mapping", "list": "a list", "number": "a number", "text": "text", "flag": "true or false"}


def strict(schema: Any) -> Any:
    """A core schema whose scalars coerce nothing, and whose unions choose by the kind of the value."""
    if isinstance(schema, (list, tuple)):
        return type(schema)(strict(item) for item in schema)
    if not isinstance(schema, dict):
        return schema
    made: Any = {key: value if key in KEEP else strict(value) for key, value in schema.items()}
    kind = made.get("type")
    if kind == "union":
        return by_kind(made)
    if kind not in ("int", "float", "bool", "str") or made.get("strict"):
        return made
    made["strict"] = True
    if kind == "int":
        return core_schema.no_info_before_validator_function(whole, made)
    return core_schema.no_info_after_validator_function(printable, made) if kind == "str" else made


KEEP = {"metadata", "default", "serialization", "function", "cls", "config", "expected", "ref", "type"}
"""Entries of a core schema that hold no schema."""


def whole(value: Any) -> Any:
    """3.0 (or 1e3) is a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def printable(value: str) -> str:
    """Raises: ValueError for a character that cannot be written to a recipe file."""
    if found := UNPRINTABLE.search(value):
        raise ValueError(f"holds the unprintable character U+{ord(found[0]):04X}")
    return value


def by_kind(union: Mapping[str, Any]) -> Any:
    """Make a union report the faults of the one choice that a value can mean, rather than of every choice."""
    listed = [choice[0] if isinstance(choice, tuple) else choice for choice in union["choices"]]
    tagged: dict[str, CoreSchema] = {kind_of_schema(choice): choice for choice in listed}
    if len(tagged) < len(listed) or "" in tagged:
        return union
    expected = " or ".join(KINDS[kind] for kind in tagged)
    return core_schema.tagged_union_schema(
        {TAG + kind: choice for kind, choice in tagged.items()},
        lambda value: TAG + kind if (kind := kind_of(value)) in tagged else None,
        custom_error_type="wrong_kind",
        custom_error_message="{expected}",
        custom_error_context={"expected": expected},
    )


def kind_of_schema(schema: Any) -> str:
    """Which kind of value a core schema takes; '' where it is not one kind."""
    while "schema" in schema and schema["type"] != "model":
        schema = schema["schema"]
    if schema["type"] == "literal":
        return "text" if all(isinstance(value, str) for value in schema["expected"]) else ""
    return SCHEMA_KINDS.get(schema["type"], "")


SCHEMA_KINDS = {
    "model": "mapping",
    "definition-ref": "mapping",
    "int": "number",
    "float": "number",
    "str": "text",
    "bool": "flag",
    "tuple": "list",
    "list": "list",
}


def kind_of(value: object) -> str:
    """Which kind a value is of."""
    if value is None:
        return ""
    kinds = ((bool, "flag"), ((int, float), "number"), (str, "text"), ((list, tuple), "list"))
    return next((kind for types, kind in kinds if isinstance(value, types)), "mapping")
