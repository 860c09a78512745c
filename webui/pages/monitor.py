"""The Monitor screen: one run as it goes, and the buttons that it heeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from tuner import control
from webui.html import render
from webui.jobs import words as commands
from webui.jobs.job import Job
from webui.views import recipe
from webui.views.buttons import LABELS
from webui.views.files import text
from webui.views.monitor import MonitorView, Seen, monitor
from webui.views.state import Head
from webui.workspace import UnknownId

from .desk import Desk, Shared
from .events import guarded, nothing, panel
from .run_head import with_job

STOPS = {"stop": False, "stop-now": True}
"""Whether a stop is one without saving."""
_ORDER = ("resume", "stop", "stop-now", "save", "sample")


@dataclass(frozen=True, slots=True)
class Monitor:
    """Components that change while a run goes on."""

    head: gr.HTML
    buttons: dict[str, gr.Button]
    samples: gr.HTML
    charts: gr.HTML
    log: gr.HTML
    seen: gr.State

    @property
    def outputs(self) -> list[Any]:
        return [self.head, *(self.buttons[name] for name in _ORDER), self.samples, self.charts, self.log, self.seen]


def build(desk: Desk, shared: Shared) -> Monitor:
    """Lay the screen out and wire its buttons."""
    head = panel(elem_id="run-head")
    with gr.Row(elem_id="run-buttons"):
        buttons = {
            name: gr.Button(
                LABELS[name],
                variant="primary" if name == "resume" else "secondary",
                size="sm",
                visible=False,
                min_width=100,
                elem_id=f"do-{name}",
            )
            for name in _ORDER
        }
    samples, charts, log = (panel(elem_id=name) for name in ("samples", "charts", "log"))
    made = Monitor(head, buttons, samples, charts, log, gr.State())

    def asking(command: str) -> Any:
        @guarded
        def ask(run: str) -> Any:
            if command in STOPS:  # a run that still makes ready heeds a signal alone
                desk.queue.stop_run(desk.workspace.run(run).name, now=STOPS[command])
            else:
                control.request(desk.workspace.run(run), command)
            return show(desk, run, None)

        return ask

    @guarded
    def resume(run: str) -> Any:
        go_on(desk, run)
        return show(desk, run, None)

    for name, button in buttons.items():
        action = resume if name == "resume" else asking(name)
        button.click(action, shared.run, made.outputs, api_visibility="private")
    return made


def go_on(desk: Desk, run: str) -> Job:
    """Queue a run that stopped again: by its own job where the queue knows it, else by the recipe that lies in it.

    Raises: UnknownId, UsageError, StorageError.
    """
    path = desk.workspace.run(run)
    known = _trainings(desk, path.name)
    if any(not job.ended for job in known):
        return known[0]
    if known and known[0].resumable:
        return desk.queue.resume(known[0].id)
    if known and not (path / "recipe.yaml").is_file():
        return desk.queue.again(known[0].id)
    return desk.queue.add("train", path.name, commands.train(path / "recipe.yaml", path), run=path.name)


@dataclass(frozen=True, slots=True)
class Looked:
    """What a page shows already."""

    seen: Seen
    job: tuple[str, str, int] | None
    """Its job, that job's state, and how many wait before it."""


def show(desk: Desk, run: str | None, looked: Looked | None) -> Any:
    """What changed since the last look, for `Monitor.outputs`."""
    hidden = [gr.update(visible=False) for _ in _ORDER]
    if not run:
        return (render("head.html", head=None, gone=False), *hidden, "", "", "", None)
    try:
        path = desk.workspace.run(run)
    except UnknownId:
        return (render("head.html", head=None, gone=True), *hidden, "", "", "", None)
    job = next(iter(_trainings(desk, path.name)), None)
    before = _before(desk, job)
    mark = (job.id, job.state, before) if job else None
    view = monitor(path, looked.seen if looked and looked.job == mark else None)
    now = Looked(view.seen, mark)
    if not view.changed:
        return (*nothing(4 + len(_ORDER)), now)
    head = with_job(view.head, job, before) if view.head else None
    return (
        gr.skip() if head is None else _head(view.run, path, head, job),
        *(gr.skip() if head is None else _button(head, name) for name in _ORDER),
        gr.skip() if view.matrix is None else render("samples.html", matrix=view.matrix),
        gr.skip() if view.curves is None else _charts(view),
        gr.skip() if view.log is None else render("log.html", log=view.log),
        now,
    )


def _trainings(desk: Desk, run: str) -> list[Job]:
    """The jobs that trained this run, the latest first."""
    return [job for job in desk.queue.jobs(run=run, limit=20) if job.trains]


def _before(desk: Desk, job: Job | None) -> int:
    if job is None or job.state != "queued":
        return 0
    waiting = [other.id for other in desk.queue.waiting(job.device)]
    running = len(desk.queue.jobs(states=("running",)))
    return running + (waiting.index(job.id) if job.id in waiting else 0)


def _head(name: str, path: Path, head: Head, job: Job | None) -> str:
    facts = [("Speed", head.pace), ("Memory", head.memory), ("Started", head.started), ("Best save", head.best)]
    return render(
        "head.html",
        name=name,
        about=recipe.summary(path),
        head=head,
        percent=round(100 * (head.share or 0)),
        facts=[(key, value) for key, value in facts if value],
        command=commands.command_line(job.words) if job else "",
        recipe=text(path / "recipe.yaml") or "",
    )


def _button(head: Head, name: str) -> Any:
    button = next((button for button in head.buttons if button.command == name), None)
    if button is None:
        return gr.update(visible=False)
    return gr.update(visible=button.applies, value=button.label)


def _charts(view: MonitorView) -> str:
    assert view.curves is not None
    return render("charts.html", charts=[panel.svg() for panel in view.curves.panels], note=view.curves.note)
