"""The Start screen: the demo, a new training, what waits and what was done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.html import render
from webui.jobs import words as commands
from webui.jobs.job import Job
from webui.views.recent import recent

from . import telling
from .desk import PHOTOS, RUNS, Desk, Shared, free_run, run_picker, unless_queued
from .events import CLICKS, guarded, panel, told

SHOWN_S = 3600.0
"""Jobs that ended longer ago are not shown here; their runs are."""


@dataclass(frozen=True, slots=True)
class Start:
    """Components that the timer refreshes."""

    listing: gr.HTML


def build(desk: Desk, shared: Shared) -> Start:
    """Lay the screen out and wire its buttons."""
    panel(render("start.html"), elem_id="hero")
    with gr.Row():
        demo = gr.Button("Try the demo (2 minutes, no download)", variant="primary", elem_id="demo")
        new = gr.Button("New training", elem_id="new")
    listing = panel(elem_id="recent", js_on_load=CLICKS)

    @guarded
    def try_demo() -> tuple[Any, Any, Any]:
        name = free_run(desk.workspace, "demo")
        place = desk.workspace.runs / name
        with unless_queued(place):
            desk.queue.add("quickstart", "The demo", commands.quickstart(place))
        return gr.Tabs(selected=RUNS), run_picker(desk, name), show(desk)

    @guarded
    def act(event: gr.EventData) -> tuple[Any, Any, Any]:
        done, name = told(event, "do"), told(event, "id")
        if done == "open":
            return gr.Tabs(selected=RUNS), run_picker(desk, desk.workspace.run(name).name), gr.skip()
        if done == "cancel":
            desk.queue.cancel(name)
        elif done == "stop-job":
            desk.queue.stop(name)
        elif done == "resume":
            desk.queue.resume(name)
        elif done == "forget":
            desk.queue.forget(name)
        return gr.skip(), gr.skip(), show(desk)

    outputs = [shared.tabs, shared.run, listing]
    demo.click(try_demo, None, outputs, api_visibility="private")
    new.click(lambda: gr.Tabs(selected=PHOTOS), None, shared.tabs, api_visibility="private")
    listing.click(act, None, outputs, api_visibility="private")
    return Start(listing)


def show(desk: Desk) -> str:
    """The queue and the recent runs, as HTML."""
    now = time.time()
    jobs = [job for job in desk.queue.jobs(limit=30) if not job.ended or now - (job.finished or 0) < SHOWN_S]
    return render("recent.html", jobs=[_job(job) for job in jobs], runs=recent(desk.workspace.runs))


def _job(job: Job) -> dict[str, Any]:
    return telling.told(job) | {
        "run": job.run if job.trains and not job.ended else None,
        "cancel": job.state == "queued",
        "stop": job.state == "running",
        "forget": job.ended,
        "resume": job.resumable,
    }
