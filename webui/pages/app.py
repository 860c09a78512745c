"""The page: its tabs, the clock that keeps them true, and what a browser remembers of a visit."""

from __future__ import annotations

from typing import Any

import gradio as gr

from tuner.errors import TunerError
from webui.html import render
from webui.jobs.queue import Queue
from webui.views.monitor import Seen
from webui.workspace import Workspace

from . import monitor, start
from .desk import COMPARE, PHOTOS, RUNS, START, TRAIN, Desk, Shared, run_picker
from .events import fault, nothing

TICK_S = 1.5
"""Between two looks at the run and the queue; each costs some milliseconds where nothing changed."""
_LOOKS = 4
"""Looks of several open pages at once."""


def build(workspace: Workspace) -> gr.Blocks:
    """Every screen of a workspace, as one page."""
    desk = Desk(workspace, Queue(workspace))
    with gr.Blocks(title="tuner", analytics_enabled=False) as page:
        timer = gr.Timer(TICK_S)
        listed = gr.State("")
        with gr.Tabs(selected=START, elem_id="tabs") as tabs:
            run = gr.Dropdown(
                label="Run", choices=desk.run_choices(), filterable=True, elem_id="run", render=False, min_width=240
            )
            shared = Shared(tabs, run, timer)
            with gr.Tab("Start", id=START):
                starting = start.build(desk, shared)
            with gr.Tab("Runs", id=RUNS):
                run.render()
                with gr.Tabs(elem_id="run-tabs"):
                    with gr.Tab("Monitor", id="monitor"):
                        watching = monitor.build(desk, shared)

        def tick(run_id: str | None, seen: Seen | None, before: str) -> Any:
            listing = start.show(desk)
            try:
                shown = monitor.show(desk, run_id, seen)
            except TunerError:  # said when the run was chosen; a clock that says it again and again helps nobody
                shown = nothing(len(watching.outputs))
            return (gr.skip(), before, *shown) if listing == before else (listing, listing, *shown)

        timer.tick(
            tick,
            [run, watching.seen, listed],
            [starting.listing, listed, *watching.outputs],
            show_progress="hidden",
            trigger_mode="once",
            concurrency_limit=_LOOKS,
            api_visibility="private",
        )

        def choose(run_id: str | None) -> Any:
            try:
                return monitor.show(desk, run_id, None)
            except TunerError as error:
                raise fault(error) from error

        run.change(choose, run, watching.outputs, show_progress="hidden", api_visibility="private")

        def arrive(request: gr.Request) -> Any:
            wanted = request.query_params.get("run")
            choices = [name for _, name in desk.run_choices()]
            picked = run_picker(desk, wanted)
            listing = start.show(desk)
            return (
                gr.Tabs(selected=RUNS) if wanted in choices else gr.skip(),
                picked,
                listing,
                listing,
                *monitor.show(desk, picked["value"], None),
            )

        page.load(
            arrive,
            None,
            [tabs, run, starting.listing, listed, *watching.outputs],
            show_progress="hidden",
            api_visibility="private",
        )
    return page
