"""What pydantic finds wrong, in the words of someone who wrote a recipe and not the program."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_SHOWN = 60
"""Characters of a user's value that a message repeats."""


def suggest(word: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """'; did you mean ...?' where one is close, else the list of what there is.

    Args:
        word: what was written.
        known: what there is.
        elsewhere: what other tools call it; capitals, hyphens and underscores do not count.
    """
    names = list(known)
    spoken = {_letters(other): name for other, name in (elsewhere or {}).items()}
    meant = spoken.get(_letters(word[:MAX_SHOWN]))
    close = [meant] if meant else difflib.get_close_matches(word[:MAX_SHOWN], names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else choices(names)


def _letters(word: str) -> str:
    return re.sub(r"[\W_]", "", word).lower()


def choices(known: Iterable[str]) -> str:
    """'; there is a, b, c'."""
    return f"; there is {', '.join(sorted(known))}"


def quoted(text: str) -> str:
    """A value in quotes on one line, shortened."""
    return repr(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "...")


def show_key(key: str) -> str:
    """A key as it stands where it is a plain word, else in quotes on one line."""
    return key if re.fullmatch(r"[\w-]{1,60}", key) else quoted(key)


def what(value: object) -> str:
    """The kind of a value, and the value where it is short: `text 'yes'`, `null`, `a list`."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return f"text {quoted(value)}"
    if isinstance(value, int):
        return quoted(str(value))[1:-1]
    if isinstance(value, float):
        return f"{value:.6g}"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping"


def sentence(kind: str, said: str, value: object, context: Mapping[str, Any]) -> str:
    """One plain sentence for an error of pydantic's.

    Args:
        kind: its type.
        said: its own message, for kinds that have no sentence here.
        value: what was given.
        context: its `ctx`.
    """
    if kind in EXPECTED:
        return f"must be {EXPECTED[kind]}, not {what(value)}{_remedy(kind, value)}"
    if kind in BOUNDS:
        return f"must be {BOUNDS[kind]} {_number(next(iter(context.values())))}, not {what(value)}"
    if kind in SENTENCES:
        return SENTENCES[kind](value, context)
    return said.removeprefix("Value error, ")


EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "model_type": "a mapping (a line for each key)",
    "model_attributes_type": "a mapping (a line for each key)",
    "dict_type": "a mapping (a line for each key)",
    "tuple_type": "a list",
    "list_type": "a list",
}

BOUNDS = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def _literal(value: object, context: Mapping[str, Any]) -> str:
    names = re.findall(r"'([^']*)'", str(context.get("expected", "")))
    close = difflib.get_close_matches(str(value)[:MAX_SHOWN], names, n=1, cutoff=0.6)
    return f"must be one of {', '.join(names)}, not {what(value)}" + (f"; did you mean {close[0]!r}?" if close else "")


def _too_short(_value: object, context: Mapping[str, Any]) -> str:
    least = context["min_length"]
    return "must not be empty" if least == 1 else f"must have at least {least} entries"


SENTENCES: Mapping[str, Callable[[object, Mapping[str, Any]], str]] = {
    "missing": lambda _v, _c: "is missing",
    "literal_error": _literal,
    "string_too_short": lambda _v, _c: "must not be empty",
    "string_too_long": lambda v, c: f"must be at most {c['max_length']} characters long, not {len(str(v))}",
    "too_short": _too_short,
    "too_long": lambda _v, c: f"must have at most {c['max_length']} entries, not {c['actual_length']}",
    "wrong_kind": lambda v, c: f"must be {c['expected']}, not {what(v)}",
}


def _number(value: Any) -> str:
    return f"{value:,}".replace(",", "") if isinstance(value, int) else f"{value:g}"


def _remedy(kind: str, value: object) -> str:
    if kind == "string_type" and value is None:
        return '; write "" for empty text'
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    looks_like_one = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", value, re.ASCII)
    if looks_like_one and "number" in EXPECTED[kind]:
        return "; take the quotes (or the leading zero) away"
    return ""
