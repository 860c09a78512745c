"""Every key of a recipe as a field of the page, and what a changed field does to the recipe's text."""

from __future__ import annotations

from typing import Any

from tuner.errors import UsageError
from webui.forms import document, widgets
from webui.forms.field import Field
from webui.html import render

_OPEN = 0
"""Groups that are open from the start."""


def show(text: str) -> str:
    """The form as HTML. Raises: RecipeError where the text is no YAML."""
    form = document.form_of(text)
    groups = [
        {
            "key": group.key,
            "title": group.title,
            "help": group.help,
            "open": number < _OPEN,
            "given": sum(field.path in form.given for field in group.fields),
            "fields": [_field(field, form.values[field.path], field.path in form.given) for field in group.fields],
        }
        for number, group in enumerate(form.groups)
    ]
    return render("fields.html", groups=groups)


def changed(text: str, path: str, said: str) -> str:
    """The text with one field as the page sent it. Raises: UsageError, RecipeError."""
    field = document.form_of(text).field(path)
    if field is None:
        raise UsageError("the form has no such field", "reload the page")
    return document.set_value(text, path, widgets.taken(field, _value(field, said)))


def _field(field: Field, value: Any, given: bool) -> dict[str, Any]:
    shown = widgets.shown(field, value)
    kind = field.kind
    options: list[tuple[str, str]] = []
    if kind == "switch":
        options, shown = [("on", "on"), ("off", "off")], "on" if shown else "off"
    elif kind == "choice":
        options = [(str(number), choice.text) for number, choice in enumerate(field.choices)]
        at = next((n for n, choice in enumerate(field.choices) if choice.value is shown or choice.value == shown), None)
        if at is None:  # a value that the recipe's check refuses; shown as what it is
            options.append(("", str(shown)))
        shown = "" if at is None else str(at)
    return {
        "path": field.path,
        "label": field.label,
        "help": field.help,
        "words": field.words,
        "kind": "select" if options else "lines" if kind in ("list", "yaml") else "line",
        "mode": "decimal" if kind in ("number", "integer") else "text",
        "options": options,
        "value": "" if shown is None else str(shown),
        "longest": field.longest,
        "given": given,
        "reset": given and not field.required and not field.path.rpartition(".")[2].isdecimal(),
        "advanced": field.advanced,
    }


def _value(field: Field, said: str) -> Any:
    """What the page's field holds, as the widget's value. Raises: UsageError."""
    if field.kind == "switch":
        return said == "on"
    if field.kind == "choice":
        if not (said.isascii() and said.isdecimal() and int(said) < len(field.choices)):
            raise UsageError(f"{field.label}: there is no such choice", "reload the page")
        return field.choices[int(said)].value
    return said
