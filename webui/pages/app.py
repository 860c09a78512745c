"""The page: its tabs, the clock that keeps them true, and what a browser remembers of a visit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui import datasets
from webui.html import render
from webui.jobs.queue import Queue
from webui.workspace import Workspace

from . import compare, monitor, photos, results, start, train, tryit
from .desk import COMPARE, PHOTOS, RUNS, START, TRAIN, Desk, Shared, run_picker
from .events import QUIET, guarded, nothing, panel, steady
from .monitor import Looked

TICK_S = 1.5
"""Between two looks at the run and the queue; each costs some milliseconds where nothing changed."""
_LOOKS = 4
"""Looks of several open pages at once."""
_REMEMBERED = "tuner"
_NO_SECRET = "what a browser keeps here is no secret, and has to outlive the server"
_TURNED = """
(kept) => {
  if (!window.tunerArrived) return kept || {};
  const tab = document.querySelector('#tabs [role=tab][aria-selected=true]');
  return {...(kept || {}), tab: tab ? tab.innerText.trim().toLowerCase() : 'start'};
}
"""
"""The browser notes the tab that is open, once the page stands as it was left."""
MONITOR, RESULTS, TRY = "monitor", "results", "try"


@dataclass(frozen=True, slots=True)
class Screens:
    """What the clock and a visit's beginning fill."""

    start: start.Start
    photos: photos.Photos
    train: train.Train
    monitor: monitor.Monitor
    results: results.Panel
    tryit: tryit.TryIt
    compare: compare.Compare


def build(workspace: Workspace, *, login: bool = False) -> gr.Blocks:
    """Every screen of a workspace, as one page; with a way out where there is a `login`."""
    desk = Desk(workspace, Queue(workspace))
    datasets.tidy(workspace)  # what a killed server left
    desk.queue.refresh()  # jobs wait for no visitor
    with gr.Blocks(title="tuner", analytics_enabled=False) as page:
        memory = gr.BrowserState({}, storage_key=_REMEMBERED, secret=_NO_SECRET)
        timer = gr.Timer(TICK_S)
        run = gr.Dropdown(label="Run", choices=desk.run_choices(), elem_id="run", render=False, min_width=240)
        with gr.Tabs(selected=START, elem_id="tabs", overflow_behavior="wrap") as tabs:
            shared = Shared(tabs, run, timer)
            with gr.Tab("Start", id=START):
                starting = start.build(desk, shared)
            with gr.Tab("Photos", id=PHOTOS):
                dropping = photos.build(desk)
            with gr.Tab("Train", id=TRAIN) as train_tab:
                training = train.build(desk, shared)
            with gr.Tab("Runs", id=RUNS):
                run.render()
                with gr.Tabs(elem_id="run-tabs", overflow_behavior="wrap"):
                    with gr.Tab("Monitor", id=MONITOR):
                        watching = monitor.build(desk, shared)
                    with gr.Tab("Results", id=RESULTS):
                        having = results.build(desk, shared)
                    with gr.Tab("Try it", id=TRY):
                        trying = tryit.build(desk, shared)
            with gr.Tab("Compare", id=COMPARE) as compare_tab:
                comparing = compare.build(desk)
        if login:
            panel(render("leave.html"), elem_id="leave")
        screens = Screens(starting, dropping, training, watching, having, trying, comparing)
        _clock(desk, shared, screens)
        _run_chosen(desk, shared, screens)
        _visit(desk, page, shared, screens, memory)
        offered = guarded(lambda chosen: compare.offered(desk, chosen))
        compare_tab.select(offered, comparing.runs, comparing.runs, **QUIET)
        train_tab.select(guarded(lambda: gr.update(choices=train.sets(desk))), None, training.dataset, **QUIET)
        train.begin_with(desk, shared, training, dropping)

    return page


def _clock(desk: Desk, shared: Shared, screens: Screens) -> None:
    """Look again every now and then; what did not change is not sent."""
    before = gr.State({})

    parts = [screens.start.listing, screens.results.page, screens.tryit.page, shared.run, screens.tryit.checkpoint]
    outputs = [*parts, before, *screens.monitor.outputs]

    @steady(len(outputs))
    def tick(run: str | None, looked: Looked | None, step: str | None, job: str | None, was: dict[str, Any]) -> Any:
        shows: dict[str, Callable[[], Any]] = {
            "start": lambda: start.show(desk),
            "results": lambda: results.show(desk, run, step),
            "drawn": lambda: tryit.show(desk, job),
            "runs": desk.run_choices,
            "saves": lambda: tryit.saves(desk, run),
        }
        found = {key: steady(1)(show)() for key, show in shows.items()}  # a fault of one part holds up no other
        new = {key: gr.skip() if html == was.get(key) else html for key, html in found.items()}
        lists = [gr.skip() if found[k] == was.get(k) else gr.update(choices=found[k]) for k in ("runs", "saves")]
        # without a run there is nothing to watch, and a look that began before the visit did would say so over it
        watched = monitor.show(desk, run, looked) if run else nothing(len(screens.monitor.outputs))
        return (new["start"], new["results"], new["drawn"], *lists, found, *watched)

    shared.timer.tick(
        tick,
        [shared.run, screens.monitor.seen, screens.results.step, screens.tryit.job, before],
        outputs,
        trigger_mode="once",
        concurrency_limit=_LOOKS,
        **QUIET,
    )


def _run_chosen(desk: Desk, shared: Shared, screens: Screens) -> None:
    choose = guarded(lambda run: _of_run(desk, run))
    shared.run.change(choose, shared.run, _run_outputs(screens), **QUIET)


def _run_outputs(screens: Screens) -> list[Any]:
    trying = screens.tryit
    return [
        screens.results.page, screens.results.step, trying.prompt, trying.checkpoint, trying.job, trying.page,
        *screens.monitor.outputs,
    ]  # fmt: skip


def _of_run(desk: Desk, run: str | None) -> Any:
    there = run if run and desk.has(run) else None  # deleted since, or not begun: Monitor says which
    job = tryit.latest(desk, there)
    return (
        results.show(desk, there, None), None, tryit.first_prompt(desk, there),
        gr.update(choices=tryit.saves(desk, there), value=tryit.FINAL), job, tryit.show(desk, job),
        *monitor.show(desk, run, None),
    )  # fmt: skip


def _visit(desk: Desk, page: gr.Blocks, shared: Shared, screens: Screens, memory: gr.BrowserState) -> None:
    """What a page shows when it opens: the run of the address, else what this browser looked at last."""

    @guarded
    def arrive(kept: Any, request: gr.Request) -> Any:
        known = kept if isinstance(kept, dict) else {}
        asked = request.query_params.get("run")
        runs = [name for _, name in desk.run_choices()]
        picked = run_picker(desk, asked or known.get("run"))
        tab = RUNS if asked in runs else known.get("tab")
        sets = photos.choices(desk)
        ids = [one for _, one in sets]
        chosen = known.get("dataset") if known.get("dataset") in ids else (ids[0] if ids else None)
        draft = known.get("draft")
        return (
            gr.Tabs(selected=tab) if tab in (START, PHOTOS, TRAIN, RUNS, COMPARE) else gr.skip(),
            picked,
            start.show(desk),
            gr.update(choices=sets, value=chosen),
            *photos.show(desk, chosen, photos.WHOLE),
            *train.opened(desk, draft if isinstance(draft, str) else train.NEW, chosen),
            *_of_run(desk, picked["value"]),
        )

    arrived = page.load(
        arrive,
        memory,
        [
            shared.tabs, shared.run, screens.start.listing, screens.photos.dataset, *screens.photos.outputs,
            *screens.train.outputs, *_run_outputs(screens),
        ],
        **QUIET,
    )  # fmt: skip

    arrived.then(None, None, None, js="() => { window.tunerArrived = true; }", api_visibility="private")

    def remember(kept: Any, run: str | None, dataset: str | None, draft: str | None) -> Any:
        return {**(kept if isinstance(kept, dict) else {}), "run": run, "dataset": dataset, "draft": draft}

    watched = [shared.run, screens.photos.dataset, screens.train.draft]
    gr.on([one.change for one in watched], remember, [memory, *watched], memory, **QUIET)
    shared.tabs.change(None, memory, memory, js=_TURNED, api_visibility="private")
