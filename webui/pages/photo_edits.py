"""The row of fields that changes many captions at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from tuner.dataset.editing import Edited, Prefix, Replace, Suffix, Trigger
from tuner.errors import UsageError
from webui.html import render

from .events import panel

if TYPE_CHECKING:
    from tuner.dataset.editing import Edit

_FIND = "Replace"
_KINDS = {
    "Put in front": Prefix,
    "Put behind": Suffix,
    "Put the trigger word in": Trigger,
    _FIND: None,
}
SHOWN = 3
"""Changed captions that the preview spells out."""


@dataclass(frozen=True, slots=True)
class Edits:
    """The fields, the button and the preview."""

    kind: gr.Dropdown
    first: gr.Textbox
    second: gr.Textbox
    apply: gr.Button
    preview: gr.HTML

    @property
    def inputs(self) -> list[Any]:
        return [self.kind, self.first, self.second]

    @property
    def changes(self) -> list[Any]:
        return [self.kind.change, self.first.change, self.second.change]  # `input` misses a first text that is pasted


def build() -> Edits:
    """Lay the fields out; what they do is wired by the screen."""
    with gr.Row(equal_height=True):
        kind = gr.Dropdown([*_KINDS], value="Put the trigger word in", label="What to do", elem_id="edit-kind")
        first = gr.Textbox("", label="Text", placeholder="sks", max_length=500, elem_id="edit-first")
        second = gr.Textbox("", label="with", max_length=500, visible=False, elem_id="edit-second")
        button = gr.Button("Change them", elem_id="edit-apply", min_width=130)
    preview = panel(elem_id="edit-preview")

    def fields(chosen: str) -> tuple[Any, Any]:
        finding = chosen == _FIND
        return gr.update(label="Find" if finding else "Text"), gr.update(visible=finding)

    kind.change(fields, kind, [first, second], show_progress="hidden", api_visibility="private")
    return Edits(kind, first, second, button, preview)


def edit(kind: str, first: str, second: str) -> Edit:
    """What the fields say. Raises: UsageError."""
    if kind == _FIND:
        return Replace(first, second)
    made = _KINDS.get(kind)
    if made is None:
        raise UsageError("there is no such edit", "reload the page")
    if not first.strip():
        raise UsageError("there is no text", "write what to put into the captions")
    return made(first.strip())


def whole(kind: str, first: str) -> bool:
    """Whether the fields say enough to be shown."""
    return bool(first if kind == _FIND else first.strip())


def told(found: Edited) -> str:
    """What an edit would do, as HTML."""
    pairs = [(found.before[key], found.after[key]) for key in list(found.after)[:SHOWN]]
    return render("edited.html", found=found, pairs=pairs)
