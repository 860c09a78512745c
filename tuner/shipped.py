"""The recipes that come with the package, found by name."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from .errors import UsageError


def folder() -> Path:
    """Where they are: beside the package's own modules in a wheel, at the root of a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """Every shipped recipe by name, in order."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def about(text: str) -> str:
    """What a recipe is for: the first sentence of its first comment, which may take several lines."""
    lines = text.partition("\n\n")[0].splitlines()
    said = " ".join(line.lstrip("# ").strip() for line in lines if "yaml-language-server" not in line)
    return re.split(r"(?<!\bal)\. ", said + " ")[0].strip().rstrip(".")


def shipped_recipe(name: str) -> Path:
    """The shipped recipe of that name, with or without `.yaml` and `recipes/`.

    Raises: UsageError with the names that come close.
    """
    known = shipped()
    word = (
        name.replace("\\", "/").removeprefix("./").removeprefix("recipes/").removesuffix(".yaml").removesuffix(".yml")
    )
    if word in known:
        return known[word]
    close = difflib.get_close_matches(word.rsplit("/", 1)[-1][:100], known, n=3, cutoff=0.5)
    names = " or ".join(close) if close else ", ".join(known)
    shown = name if len(name) <= 200 else name[:200] + "..."
    raise UsageError(
        f"no recipe {shown!r}: no such file, and no shipped recipe of that name",
        f"did you mean {names}?" if close else f"the shipped recipes are {names}",
    )
