"""The Monitor screen: one run as it goes, and the buttons that it heeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from tuner import control
from webui.html import render
from webui.jobs import words as commands
from webui.jobs.job import Job
from webui.views import recipe
from webui.views.buttons import LABELS
from webui.views.monitor import MonitorView, Seen, monitor
from webui.views.state import Head

from .desk import Desk, Shared
from .events import guarded, nothing, panel

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
    known = [job for job in desk.queue.jobs(run=path.name) if job.trains]
    if any(not job.ended for job in known):
        return known[0]
    if known and known[0].resumable:
        return desk.queue.resume(known[0].id)
    return desk.queue.add("train", path.name, commands.train(path / "recipe.yaml", path), run=path.name)


def show(desk: Desk, run: str | None, seen: Seen | None) -> Any:
    """What changed since the last look, for `Monitor.outputs`."""
    if not run:
        return (render("head.html", head=None), *(gr.update(visible=False) for _ in _ORDER), "", "", "", None)
    path = desk.workspace.run(run)
    view = monitor(path, seen)
    if not view.changed:
        return (*nothing(4 + len(_ORDER)), view.seen)
    return (
        gr.skip() if view.head is None else _head(desk, view.run, run, view.head),
        *(gr.skip() if view.head is None else _button(view.head, name) for name in _ORDER),
        gr.skip() if view.matrix is None else render("samples.html", matrix=view.matrix),
        gr.skip() if view.curves is None else _charts(view),
        gr.skip() if view.log is None else render("log.html", log=view.log),
        view.seen,
    )


def _head(desk: Desk, name: str, run: str, head: Head) -> str:
    path = desk.workspace.run(run)
    facts = [
        ("Speed", head.pace),
        ("Memory", head.memory),
        ("Started", head.started),
        ("Best save", head.best),
    ]
    job = next((job for job in desk.queue.jobs(run=path.name, limit=5) if job.trains), None)
    return render(
        "head.html",
        name=name,
        about=recipe.summary(path),
        head=head,
        percent=round(100 * (head.share or 0)),
        facts=[(key, value) for key, value in facts if value],
        command=commands.command_line(job.words) if job else "",
    )


def _button(head: Head, name: str) -> Any:
    button = next(button for button in head.buttons if button.command == name)
    return gr.update(visible=button.applies)


def _charts(view: MonitorView) -> str:
    assert view.curves is not None
    shown = [panel.svg() for panel in view.curves.panels]
    return render("charts.html", charts=shown, note=view.curves.note)
