"""The basic answers back out of a recipe that was made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tuner.shipped import shipped

from . import yaml_spans as spans
from .basics import UNNAMED, Basics
from .methods import TOYBOX, Method, method
from .words import Words


def told(text: str) -> Basics | None:
    """The answers that a text was made of, as far as it still tells; None where it was made otherwise."""
    found = _MADE.search(text[:2000])
    tree = spans.document(text).value
    if found is None or found["method"] not in shipped() or not isinstance(tree, dict):
        return None
    chosen = method(found["method"])
    subject = _told_subject(chosen, tree)
    title = found["name"]
    return Basics(
        chosen.key,
        _at(tree, "backbone", "model") == TOYBOX,
        _told_dataset(_at(tree, "data", chosen.role, "path")),
        _told_trigger(chosen, tree, subject),
        subject,
        found["quality"],
        "" if title == UNNAMED else title,
    )


_MADE = re.compile(
    r"\A# (?P<name>.+)\n# .*\n# Made from the recipe (?P<method>[\w-]+); quality: (?P<quality>quick|normal|careful)\.$",
    re.MULTILINE,
)


def _at(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _told_dataset(path: Any) -> str:
    """The dataset whose folder of pictures this is."""
    place = Path(path) if isinstance(path, str) else Path()
    return place.parent.name if place.name == "images" and re.fullmatch(r"[0-9a-f]{16}", place.parent.name) else ""


def _word_adapter(tree: Any) -> Any:
    listed = tree.get("adapters")
    entries = listed if isinstance(listed, list) else []
    return next((one for one in entries if _at(one, "name") == "textual_inversion"), None)


def _told_subject(chosen: Method, tree: Any) -> str:
    if chosen.token:
        return str(_at(_word_adapter(tree), "init") or "")
    said = _at(tree, "data", "prior", "caption")
    found = re.fullmatch(r"an? (?:photo|picture) of an? (.+)", said) if isinstance(said, str) else None
    return found[1] if found else ""


def _told_trigger(chosen: Method, tree: Any, subject: str) -> str:
    if chosen.token:
        return str(_at(_word_adapter(tree), "token") or "").strip("<>")
    given = _at(tree, "data", "trigger")
    if isinstance(given, str) or not chosen.trigger:
        return given or Basics().trigger
    template = _at(spans.document(chosen.file.read_text("utf-8")).value, "data", chosen.role, "caption")
    mark = "\1"
    words = Words(chosen, mark, subject)
    pattern = re.escape(words.put_in(template)).replace(re.escape(mark), "(.+)", 1)
    said = _at(tree, "data", chosen.role, "caption")
    found = re.fullmatch(pattern, said) if isinstance(said, str) else None
    return found[1] if found else ""
