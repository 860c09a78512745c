"""Writes docs/recipe.md, every key of a recipe, from the types: python docs/recipe_page.py > docs/recipe.md."""

from __future__ import annotations

from tuner.describe import describe
from tuner.part_types import part_types
from tuner.parts import Choice, Part
from tuner.recipe import Recipe

HEAD = """# Every key of a recipe

Made from the types by `make schema`; `tuner show` prints the same beside the values of a recipe, and
[recipe.schema.json](recipe.schema.json) gives completion in an editor.
"""


def page() -> str:
    """The whole page as Markdown."""
    return HEAD + "".join(_part(title, part) for title, part in _parts())


def _parts() -> list[tuple[str, type[Part]]]:
    """(title, part) in the order of a recipe; of a family, each member."""
    found: list[tuple[str, type[Part]]] = [("the top level", Recipe)]

    def visit(path: str, part: type[Part]) -> None:
        for name, field in part.model_fields.items():
            below = f"{path}.{name}" if path else name
            for kind in part_types(field.annotation):
                members = kind.family.items() if issubclass(kind, Choice) and kind.opens_family else [("", kind)]
                for member, own in members:
                    title = f"{below}: {{name: {member}}}" if member else below
                    if all(own is not other for _, other in found):
                        found.append((title, own))
                        visit(below, own)

    visit("", Recipe)
    return found


def _part(title: str, part: type[Part]) -> str:
    rows = [
        f"| `{key.path[-1]}` | {_cell(key.kind)} | {_cell(key.default)} | {_cell(key.help)} |\n"
        for key in describe(part)
        if key.path[-1] != "name"
    ]
    text = (part.__doc__ or "").strip().splitlines()[0]
    return f"\n## {title}\n\n{text}\n\n| key | is | default | |\n|---|---|---|---|\n{''.join(rows)}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
