"""Writes docs/combinations.md from the code: python docs/combinations_page.py > docs/combinations.md."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tuner.adapters import Adapter
from tuner.backbones import Backbone
from tuner.data.sources import PriorSource
from tuner.recipe import Recipe
from tuner.tasks import Task

HEAD = """# What goes with what

Made from the code by `make schema`: each cell is a recipe that was checked. All of them are run from end to end,
stopped and gone on with by `tests/end_to_end/test_every_combination.py`.
"""
PIVOTAL = "textual_inversion, then lora"
TOKEN = "<new>"


def page() -> str:
    """The whole page as Markdown."""
    return HEAD + "".join(_table(backbone) for backbone in sorted(Backbone.family))


def _table(backbone: str) -> str:
    tasks = sorted(Task.family)
    rows, reasons = [], []
    for adapter in [*sorted(Adapter.family), PIVOTAL]:
        cells = []
        for task in tasks:
            reason = refusal(backbone, adapter, task)
            if reason:
                reasons.append(f"- {adapter} with {task}: {reason}\n")
            cells.append("no" if reason else "yes")
        rows.append(f"| {adapter} | {' | '.join(cells)} |\n")
    head = f"\n## {backbone}\n\n| adapter | {' | '.join(tasks)} |\n|---|{'---|' * len(tasks)}\n"
    return head + "".join(rows) + ("\n" + "".join(reasons) if reasons else "")


def refusal(backbone: str, adapter: str, task: str) -> str | None:
    """Why the recipe reader refuses this combination; None where it takes it."""
    try:
        Recipe.model_validate(_tree(backbone, adapter, task))
    except ValidationError as error:
        return "; ".join(fault["msg"] for fault in error.errors())
    return None


def _tree(backbone: str, adapter: str, task: str) -> dict[str, Any]:
    kinds = [{"name": adapter}]
    if adapter == PIVOTAL:
        kinds = [{"name": "textual_inversion", "until": 0.5}, {"name": "lora"}]
    role, *others = Task.family[task].sources.items()
    data: dict[str, Any] = {role[0]: {"path": "photos", "caption": f"a photo of {TOKEN}"}}
    for name, kind in others:
        prior = {"predict": True} if kind is PriorSource else {"path": "others"}
        data[name] = {"caption": "a photo", **prior}
    return {
        "backbone": {"name": backbone, "model": "toybox"},
        "adapters": kinds,
        "task": {"name": task},
        "data": {"resolution": 64, **data},
        "train": {"steps": 100},
    }


if __name__ == "__main__":
    print(page(), end="")
