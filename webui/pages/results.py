"""The Results screen: what a run saved, which is the best, and the way out of this machine for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import gradio as gr

from tuner.errors import UsageError
from webui import downloads, listed
from webui.html import render
from webui.jobs import words as commands
from webui.jobs.job import Job
from webui.media import FILES
from webui.views import adapter_files, words
from webui.views.results import Figure, Results, Saved, results
from webui.workspace import UnknownId

from . import telling
from .desk import Desk, Shared
from .events import CLICKS, guarded, panel, told

KINDS = ("package", "publish", "eval")
"""Jobs that belong to this screen."""
_COLUMNS = 3
"""Figures of the yardstick that the table has room for; the rest is below."""
_FINAL = "final"


@dataclass(frozen=True, slots=True)
class Panel:
    """Components that change with the run and while it goes on."""

    page: gr.HTML
    step: gr.State
    """Key of the save that is shown; None is the best one."""


def build(desk: Desk, shared: Shared) -> Panel:
    """Lay the screen out and wire its buttons."""
    page = panel(elem_id="results", js_on_load=CLICKS)
    step = gr.State()
    with gr.Accordion("Publish to the Hugging Face Hub", open=False, elem_id="publish"):
        panel(render("publish.html"))
        with gr.Row(equal_height=True):
            repo = gr.Textbox("", label="Name there", placeholder="your-name/my-dog", max_length=96, elem_id="repo")
            licence = gr.Textbox(
                "", label="Licence", placeholder="only where the base names none", max_length=60, elem_id="licence"
            )
            private = gr.Checkbox(label="Private: only you see it", value=True, elem_id="private")
        publish = gr.Button("Publish", elem_id="do-publish")

    @guarded
    def act(run: str | None, chosen: str | None, event: gr.EventData) -> tuple[str, str | None]:
        action = told(event, "do")
        if action == "choose":
            chosen = told(event, "id")
        elif run:
            save = _chosen(results(desk.workspace.run(run)), chosen)
            if action == "package":
                _package(desk, run, save)
            elif action == "measure":
                _measure(desk, run, save)
        return show(desk, run, chosen), chosen

    @guarded
    def send(run: str | None, chosen: str | None, name: str, terms: str, only_me: bool) -> str:
        if not run:
            raise UsageError("there is no run to publish", "choose one above")
        path = desk.workspace.run(run)
        save = _chosen(results(path), chosen)
        name, terms = name.strip(), terms.strip()
        if not name:
            raise UsageError("the repository has no name", "write it as your-name/my-dog")
        said = [*_step(save), *([f"--license={terms}"] if terms else []), *([] if only_me else ["--public"])]
        command = ["publish", "--json", *said, "--", str(path), name]
        desk.queue.add("publish", f"Publish as {name}", command, device="none", run=path.name)
        gr.Info("Queued. How it goes stands under the files.")
        return show(desk, run, chosen)

    page.click(act, [shared.run, step], [page, step], api_visibility="private")
    publish.click(send, [shared.run, step, repo, licence, private], page, api_visibility="private")
    return Panel(page, step)


def show(desk: Desk, run: str | None, chosen: str | None) -> str:
    """The screen as HTML."""
    if not run:
        return render("results.html", run=None)
    try:
        path = desk.workspace.run(run)
    except UnknownId:  # deleted since; Monitor says so
        return render("results.html", run=None)
    found = results(path)
    save = _chosen(found, chosen) if found.saves else None
    figures = [_column(figure) for figure in (save.figures if save else ())][:_COLUMNS]
    return render(
        "results.html",
        run=run,
        results=found,
        rows=[_row(one, one is save, figures) for one in found.saves],
        measured=any(one.validation for one in found.saves),
        figures=figures,
        save=save,
        files=_files(desk, run, save) if save else [],
        codes=adapter_files.code(save.folder.path) if save else (),
        card=adapter_files.card(save.folder.path) if save else "",
        yardstick=save.figures if save else (),
        jobs=[_job(desk, job) for job in desk.queue.jobs(run=path.name, kinds=KINDS, limit=5)],
    )


def _key(save: Saved) -> str:
    return _FINAL if save.final or save.step is None else str(save.step)


def _chosen(found: Results, key: str | None) -> Saved:
    """The save of a key; without one the best, else the newest. Raises: UsageError where nothing is saved."""
    save = next((one for one in found.saves if _key(one) == key), None) or found.save(None)
    if save is None:
        raise UsageError("nothing is saved yet", "wait for the first save")
    return save


def _step(save: Saved) -> list[str]:
    return [] if save.final or save.step is None else [f"--step={save.step}"]


def _row(save: Saved, chosen: bool, names: list[str]) -> dict[str, Any]:
    values = {_column(figure): figure.adapter for figure in save.figures}
    return {
        "key": _key(save),
        "title": save.title,
        "marks": save.marks,
        "size": save.folder.size,
        "validation": save.validation,
        "figures": [values.get(name, "") for name in names],
        "chosen": chosen,
    }


def _column(figure: Figure) -> str:
    """Two judges may be asked the same question."""
    return f"{figure.name} ({figure.judge})"


def _files(desk: Desk, run: str, save: Saved) -> list[dict[str, Any]]:
    urls = {found.path: found.url for found in downloads.of(desk.workspace, run).files}
    return [
        {
            "name": file.name,
            "size": file.size,
            "kind": file.kind,
            "base": file.base,
            "tools": [(choice.tool, choice.words) for choice in save.folder.choices if choice.file == file.name],
            "problem": file.problem,
            "metadata": file.metadata,
            "url": urls.get(file.path, "") if not file.problem else "",
        }
        for file in save.folder.files
    ]


def _package(desk: Desk, run: str, save: Saved) -> None:
    path = desk.workspace.run(run)
    name = f"{path.name}.zip" if save.final else f"{path.name}-step-{save.step}.zip"

    def making(folder: Any) -> list[str]:
        place = folder / FILES
        place.mkdir(mode=0o700)
        return ["package", "--json", *_step(save), f"--out={place / name}", "--", str(path)]

    desk.queue.add("package", name, making, device="none", run=path.name)


def _measure(desk: Desk, run: str, save: Saved) -> None:
    path = desk.workspace.run(run)
    desk.queue.add("eval", f"Measure {save.title}", ["eval", "--json", *_step(save), "--", str(path)], run=path.name)


def _job(desk: Desk, job: Job) -> dict[str, Any]:
    answer = desk.queue.answer(job.id) if job.state == "done" else None
    facts = answer if isinstance(answer, dict) else {}
    size = facts.get("size")
    made = job.kind == "package" and job.state == "done"
    return telling.told(job) | {
        "command": commands.command_line(job.words),
        "url": _made(desk, job) if made else "",
        "size": words.size(size) if isinstance(size, int) else "",
        "link": _web(facts.get("url")) if job.kind == "publish" else "",
    }


def _made(desk: Desk, job: Job) -> str:
    """The address of the file that a job left."""
    found = listed.files(desk.workspace.job(job.id) / FILES)
    return f"/download/job/{job.id}/{quote(found[0].name, safe='')}" if found else ""


def _web(address: Any) -> str:
    """An address that may be a link."""
    return address if isinstance(address, str) and address.startswith(("https://", "http://")) else ""
