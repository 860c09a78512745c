"""The Gradio pages: what a visitor sees, wired to the queue, the forms and the views."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

    from webui.workspace import Workspace


def build(workspace: Workspace, *, login: bool = False) -> gr.Blocks:
    """Every screen of a workspace, as one page; with a way out where there is a `login`."""
    from .app import build as build_app

    return build_app(workspace, login=login)
