"""The Try it screen: the same noise without and with the adapter, and grids over two settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import gradio as gr

from tuner.errors import UsageError
from tuner.grid_axes import NAMES
from webui.html import render
from webui.jobs import words as commands
from webui.media import FILES
from webui.views import drawn, recipe
from webui.views.results import Saved, results
from webui.workspace import UnknownId

from . import telling
from .desk import Desk, Shared
from .events import guarded, panel

FINAL = "final"
_NO_AXIS = "nothing"
_WHOLE, _DECIMAL = re.compile(r"[0-9]{1,19}"), re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?")
_HELP = {
    "strength": "0, 0.5, 1",
    "seed": "0, 1, 2",
    "checkpoint": "200, 400, final",
    "prompt": "one prompt | another",
    "guidance": "3, 5, 7.5",
    "steps": "10, 20, 30",
}


@dataclass(frozen=True, slots=True)
class TryIt:
    """Components that change with the run and while it draws."""

    page: gr.HTML
    job: gr.State
    prompt: gr.Textbox
    checkpoint: gr.Dropdown


def build(desk: Desk, shared: Shared) -> TryIt:
    """Lay the screen out and wire its buttons."""
    with gr.Row():
        with gr.Column(scale=3):
            prompt = gr.Textbox("", label="Prompt", lines=2, max_length=2000, elem_id="prompt")
            negative = gr.Textbox("", label="What to keep out (negative prompt)", max_length=2000, elem_id="negative")
        with gr.Column(scale=2):
            strength = gr.Slider(
                0, 2, value=1, step=0.05, label="Strength", info="1 is what was trained", elem_id="strength"
            )
            checkpoint = gr.Dropdown([("newest", FINAL)], value=FINAL, label="Save", elem_id="checkpoint")
    draw = gr.Button("Draw", variant="primary", elem_id="draw")
    with gr.Accordion("Seed, steps, guidance", open=False, elem_id="draw-settings"), gr.Row():
        seed = gr.Textbox("0", label="Seed", info="the same seed is the same noise", max_length=19, elem_id="seed")
        steps, guidance = (
            gr.Textbox("", label=label, info="the base's own where empty", max_length=9, elem_id=name)
            for label, name in (("Sampler steps", "steps"), ("Guidance", "guidance"))
        )
    with gr.Accordion("A grid over two settings", open=False, elem_id="grid-settings"):
        with gr.Row():
            x_name = gr.Dropdown([*NAMES], value="strength", label="From left to right", elem_id="x-name")
            x_values = gr.Textbox(
                "", label="Values", placeholder=_HELP["strength"], max_length=2000, elem_id="x-values"
            )
            y_name = gr.Dropdown([_NO_AXIS, *NAMES], value="seed", label="From top to bottom", elem_id="y-name")
            y_values = gr.Textbox("", label="Values", placeholder=_HELP["seed"], max_length=999, elem_id="y-values")
        draw_grid = gr.Button("Draw the grid", elem_id="draw-grid")
    page = panel(elem_id="drawn")
    job = gr.State()
    made = TryIt(page, job, prompt, checkpoint)
    said = [shared.run, prompt, negative, checkpoint, seed, steps, guidance]

    @guarded
    def pair(run: str, text: str, without: str, save: str, number: str, many: str, scale: str, strong: float) -> Any:
        words = _words(desk, run, text, without, save, number, many, scale)
        return _queue(
            desk, run, f"Try it: {text}", [f"--x=strength=0,{strong:g}" if strong else "--x=strength=0", *words]
        )

    @guarded
    def grid(
        run: str, text: str, without: str, save: str, number: str, many: str, scale: str,
        x: str, xs: str, y: str, ys: str,
    ) -> Any:  # fmt: skip
        axes = [_axis("x", x, xs), *([_axis("y", y, ys)] if y != _NO_AXIS else [])]
        varied = {x, y}
        words = _words(
            desk,
            run,
            "" if "prompt" in varied else text,
            without,
            FINAL if "checkpoint" in varied else save,
            "" if "seed" in varied else number,
            "" if "steps" in varied else many,
            "" if "guidance" in varied else scale,
            need_prompt="prompt" not in varied,
        )
        return _queue(desk, run, f"Grid: {text or xs}", [*axes, *words])

    draw.click(pair, [*said, strength], [page, job], api_visibility="private")
    draw_grid.click(grid, [*said, x_name, x_values, y_name, y_values], [page, job], api_visibility="private")
    for name, values in ((x_name, x_values), (y_name, y_values)):
        name.change(lambda chosen: gr.update(placeholder=_HELP.get(chosen, "")), name, values, api_visibility="private")
    return made


def first_prompt(desk: Desk, run: str | None) -> str:
    """What to draw first with a run: its own first sample prompt."""
    prompts = recipe.prompts(desk.workspace.run(run)) if run else ()
    return prompts[0] if prompts else ""


def saves(desk: Desk, run: str | None) -> list[tuple[str, str]]:
    """(what the picker says, key) of every save of a run, the newest first."""
    found = results(desk.workspace.run(run)).saves if run else ()
    steps = [save for save in found if save.step is not None and not save.final]
    return [("newest", FINAL), *((f"{save.title}{_best(save)}", str(save.step)) for save in steps)]


def _best(save: Saved) -> str:
    return "".join(f" ({mark})" for mark in save.marks if "best" in mark)


def latest(desk: Desk, run: str | None) -> str | None:
    """The last job that drew with this run."""
    if not run:
        return None
    found = desk.queue.jobs(run=desk.workspace.run(run).name, kinds=("grid",), limit=1)
    return found[0].id if found else None


def show(desk: Desk, name: str | None) -> str:
    """What a job has drawn so far, as HTML."""
    if not name:
        return render("grid.html", job=None)
    try:
        job = desk.queue.job(name)
    except UnknownId:  # cleared from the queue since
        return render("grid.html", job=None)
    folder = desk.workspace.job(name) / FILES
    return render(
        "grid.html", job=telling.told(job), grid=drawn.grid(name, folder), command=commands.command_line(job.words)
    )


def _words(
    desk: Desk, run: str, prompt: str, negative: str, save: str, seed: str, steps: str, guidance: str,
    *, need_prompt: bool = True,
) -> list[str]:  # fmt: skip
    """Arguments of `tuner grid` but for its axes and its folder. Raises: UsageError."""
    if not run:
        raise UsageError("there is no run to draw with", "choose one above")
    if need_prompt and not prompt.strip():
        raise UsageError("there is no prompt", "write what to draw, with the word that the run taught")
    path = desk.workspace.run(run)
    if save != FINAL:
        if not any(str(one.step) == save for one in results(path).saves):
            raise UsageError("there is no such save", "choose another")
        path = path / "checkpoints" / str(int(save)) / "adapter"
    said = [f"--negative={negative.strip()}"] if negative.strip() else []
    said += _option("seed", seed, _WHOLE) + _option("steps", steps, _WHOLE) + _option("guidance", guidance, _DECIMAL)
    return [f"--adapter={path}", *said, "--", *([prompt.strip()] if prompt.strip() else [])]


def _axis(side: str, name: str, values: str) -> str:
    """Raises: UsageError."""
    if not values.strip():
        raise UsageError(f"the grid has no values of {name}", f"write some, such as {_HELP[name]}")
    return f"--{side}={name}={values.strip()}"


def _option(name: str, text: str, kind: re.Pattern[str]) -> list[str]:
    """`--name=value`; nothing where the field is empty. Its bounds are the command's to check. Raises: UsageError."""
    text = text.strip()
    if text and not kind.fullmatch(text):
        raise UsageError(f"{text[:40]!r} is no {name}", "write a number, or nothing for the base's own")
    return [f"--{name}={text}"] if text else []


def _queue(desk: Desk, run: str, title: str, words: list[str]) -> tuple[str, str]:
    path = desk.workspace.run(run)

    def command(folder: Any) -> list[str]:
        return ["grid", "--json", f"--out={folder / FILES}", *words]

    job = desk.queue.add("grid", title[:200], command, run=path.name)
    return show(desk, job.id), job.id
