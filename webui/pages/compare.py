"""The Compare screen: curves, recipes and samples of several runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.html import render
from webui.views.compare import MOST_RUNS
from webui.views.compare import compare as compared

from .desk import Desk
from .events import QUIET, guarded, panel


@dataclass(frozen=True, slots=True)
class Compare:
    runs: gr.Dropdown


def build(desk: Desk) -> Compare:
    """Lay the screen out and wire it."""
    runs = gr.Dropdown(
        desk.run_choices(), value=[], multiselect=True, max_choices=MOST_RUNS, label="Runs", elem_id="compared"
    )
    page = panel(render("compare.html", comparison=None), elem_id="comparison")

    @guarded
    def show(names: list[str]) -> str:
        if len(names) < 2:
            return render("compare.html", comparison=None)
        found = compared([desk.workspace.run(name) for name in names])
        charts = [panel.svg() for panel in found.panels]
        return render("compare.html", comparison=found, charts=charts)

    runs.change(show, runs, page, **QUIET)
    return Compare(runs)


def offered(desk: Desk, chosen: list[str]) -> Any:
    """The picker with the runs of this moment; where none is chosen yet, the latest two are."""
    there = desk.run_choices()
    ids = [name for _, name in there]
    if any(name in ids for name in chosen) or len(ids) < 2:
        return gr.update(choices=there)  # no value: what is being chosen meanwhile stays
    return gr.update(choices=there, value=ids[:2])
