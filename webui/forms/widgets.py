"""Between what a widget holds and what a recipe says: numbers from number boxes, lists from lines, YAML from text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuner.errors import UsageError
from tuner.yaml_text import parse

from .yaml_render import flow, word

if TYPE_CHECKING:
    from .fields import Field


def shown(field: Field, value: Any) -> Any:
    """A recipe's value as the field's widget holds it.

    A list is one line an entry; a `yaml` field is one line of YAML; a text that may be left out is empty then.
    """
    if field.kind == "yaml":
        return "" if value is None else flow(value) if isinstance(value, (dict, list, tuple)) else word(value)
    if field.kind == "list":
        entries = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        return "\n".join(" ".join(str(entry).splitlines()) for entry in entries)
    if field.kind in ("number", "integer"):
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if field.kind == "switch":
        return value is True
    if field.kind == "choice":
        return value
    return "" if value is None else str(value)


def taken(field: Field, given: Any) -> Any:
    """What a widget holds as a recipe's value.

    Raises: UsageError where the field takes no such thing; bounds are left to the recipe's own check.
    """
    if field.kind == "yaml":
        return _yaml(field, given)
    if field.kind == "list":
        return [line.strip() for line in str(given or "").splitlines() if line.strip()]
    if field.kind in ("number", "integer"):
        return _number(field, given)
    if field.kind == "switch":
        if not isinstance(given, bool):
            raise UsageError(f"{field.label}: must be on or off")
        return given
    if field.kind == "choice":
        if not any(given is choice.value or given == choice.value for choice in field.choices):
            raise UsageError(f"{field.label}: there is no such choice", "reload the page")
        return given
    text = "" if given is None else str(given)
    return None if text == "" and field.optional else text


def _number(field: Field, given: Any) -> int | float | None:
    if given is None or given == "":
        if field.optional:
            return None
        raise UsageError(f"{field.label}: a number is missing", str(field.bounds) and f"it takes {field.words}")
    value = _yaml(field, given) if isinstance(given, str) else given
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{field.label}: must be a number, not {str(given)[:60]!r}")
    if field.kind == "integer" and isinstance(value, float):
        if not value.is_integer():
            raise UsageError(f"{field.label}: must be a whole number, not {value:g}")
        return int(value)
    return value


def _yaml(field: Field, given: Any) -> Any:
    document = parse(str("" if given is None else given).strip(), one_value=True)
    if document.faults:
        raise UsageError(f"{field.label}: {document.faults[0].text}", f"it takes {field.words}")
    return document.value
