"""The Photos screen: pictures dropped and judged, captions edited one by one or all at once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import gradio as gr

from tuner.dataset import editing
from tuner.dataset.crops import options
from tuner.dataset.landing import forget_refused
from tuner.errors import DataError, UsageError
from webui import datasets
from webui.html import render
from webui.workspace import UnknownId

from . import photo_edits
from .desk import Desk
from .events import CLICKS, EDITS, QUIET, guarded, panel, told

DROPPED = "window.tunerDropzone(element, () => trigger('upload', {}));"
"""The page's script sends the files; afterwards the grid is asked for anew."""
_SIDES = (64, 256, 512, 768, 1024)
WHOLE = "do not show"


@dataclass(frozen=True, slots=True)
class Photos:
    """Components that other screens look at."""

    dataset: gr.Dropdown
    drop: gr.HTML
    grid: gr.HTML
    words: gr.HTML
    train: gr.Button
    """Begins a recipe about this set."""

    @property
    def outputs(self) -> list[Any]:
        return [self.drop, self.grid, self.words]


def build(desk: Desk) -> Photos:
    """Lay the screen out and wire its fields."""
    with gr.Row(equal_height=True):
        dataset = gr.Dropdown(choices(desk), label="Set of photos", elem_id="dataset", scale=3)
        name = gr.Textbox("", label="New set", placeholder="my dog", max_length=100, elem_id="set-name", scale=2)
        new = gr.Button("New set", elem_id="new-set", scale=1, min_width=110)
    drop = panel(elem_id="drop", js_on_load=DROPPED)
    with gr.Accordion("Change many captions at once", open=False, elem_id="bulk"):
        edits = photo_edits.build()
    with gr.Row():
        side = gr.Dropdown(
            [WHOLE, *map(str, _SIDES)], value=WHOLE, label="Show the crop at (px)", elem_id="side", min_width=160
        )
        undo = gr.Button("Undo", elem_id="undo", min_width=90)
        redo = gr.Button("Redo", elem_id="redo", min_width=90)
        train = gr.Button("Train on these", variant="primary", elem_id="train-these", min_width=160)
    grid = panel(elem_id="grid", js_on_load=CLICKS + EDITS)
    words = panel(elem_id="words")
    made = Photos(dataset, drop, grid, words, train)

    @guarded
    def create(text: str) -> Any:
        made_id = datasets.make(desk.workspace, text)
        return gr.update(choices=choices(desk), value=made_id), "", *show(desk, made_id, WHOLE)

    @guarded
    def look(chosen: str | None, at: str) -> Any:
        return show(desk, chosen, at)

    @guarded
    def arrived(chosen: str | None, at: str) -> Any:
        return gr.update(choices=choices(desk), value=chosen), *show(desk, chosen, at)

    here = [dataset, side]
    gr.on([new.click, name.submit], create, name, [dataset, name, *made.outputs], **QUIET)
    gr.on([dataset.change, side.change], look, here, made.outputs, **QUIET)
    drop.upload(arrived, here, [dataset, *made.outputs], **QUIET)
    _wire_grid(desk, made, side)
    _wire_turns(desk, made, side, undo, redo)
    _wire_edits(desk, made, side, edits)
    return made


def _wire_grid(desk: Desk, made: Photos, side: gr.Dropdown) -> None:
    """A caption that was left, and the buttons of a picture and of its set."""

    @guarded
    def edit(chosen: str, at: str, event: gr.EventData) -> Any:
        editing.apply(_dataset(desk, chosen), editing.Whole(told(event, "value")), [told(event, "id")])
        return show(desk, chosen, at)

    @guarded
    def act(chosen: str, at: str, event: gr.EventData) -> Any:
        action, photo = told(event, "do"), told(event, "id")
        if action == "remove":
            editing.remove(_dataset(desk, chosen), [photo])
        elif action == "clear-refused":
            forget_refused(_dataset(desk, chosen))
        elif action == "delete-set":
            _dataset(desk, chosen).delete()
            left = choices(desk)
            following = left[0][1] if left else None
            return gr.update(choices=left, value=following), *show(desk, following, at)
        return gr.skip(), *show(desk, chosen, at)

    here = [made.dataset, side]
    made.grid.edit(edit, here, made.outputs, **QUIET)
    made.grid.click(act, here, [made.dataset, *made.outputs], **QUIET)


def _wire_turns(desk: Desk, made: Photos, side: gr.Dropdown, undo: gr.Button, redo: gr.Button) -> None:
    def turning(turn: Any) -> Any:
        @guarded
        def handler(chosen: str | None, at: str) -> Any:
            done = turn(_dataset(desk, chosen))
            if not done.what:
                gr.Info("There is nothing to take back." if turn is editing.undo else "There is nothing to do again.")
            elif done.left:
                gr.Warning(f"{len(done.left)} captions were changed since, and stay as they are.")
            return show(desk, chosen, at)

        return handler

    for button, turn in ((undo, editing.undo), (redo, editing.redo)):
        button.click(turning(turn), [made.dataset, side], made.outputs, **QUIET)


def _wire_edits(desk: Desk, made: Photos, side: gr.Dropdown, edits: photo_edits.Edits) -> None:
    @guarded
    def bulk(chosen: str | None, at: str, kind: str, first: str, second: str) -> Any:
        done = editing.apply(_dataset(desk, chosen), photo_edits.edit(kind, first, second))
        gr.Info(f"{done.changed} of {done.pictures} captions changed.")
        return show(desk, chosen, at)

    @guarded
    def preview(chosen: str | None, kind: str, first: str, second: str) -> str:
        if not chosen or not photo_edits.whole(kind, first):
            return ""  # still being written
        return photo_edits.told(editing.preview(_dataset(desk, chosen), photo_edits.edit(kind, first, second)))

    edits.apply.click(bulk, [made.dataset, side, *edits.inputs], made.outputs, **QUIET)
    gr.on(edits.changes, preview, [made.dataset, *edits.inputs], edits.preview, trigger_mode="always_last", **QUIET)


def choices(desk: Desk) -> list[tuple[str, str]]:
    """(what the picker says, id) of every set."""
    rows = datasets.rows(desk.workspace)
    return [(f"{row.name} ({'damaged' if row.problem else row.pictures})", row.id) for row in rows]


def show(desk: Desk, chosen: str | None, side: str) -> tuple[str, str, str]:
    """Drop zone, grid and words, as HTML."""
    if not chosen:
        return render("drop.html", dataset=None), "", ""
    data = options(int(side)) if side.isdecimal() else None
    try:
        page = datasets.page(desk.workspace, chosen, data)
    except (DataError, UnknownId) as error:  # damaged or deleted: it must not take the other screens with it
        return render("drop.html", dataset=None, waiting=()), render("broken.html", fault=error), ""
    heic = " and HEIC" if find_spec("pillow_heif") else ""
    return (
        render("drop.html", dataset=page.id, heic=heic, waiting=page.waiting),
        render("photos.html", page=page, resolution=side if data else ""),
        render("words.html", page=page),
    )


def _dataset(desk: Desk, chosen: str | None) -> Any:
    if not chosen:
        raise UsageError("there is no set of photos", "name one and press New set")
    return datasets.open_dataset(desk.workspace, chosen)
