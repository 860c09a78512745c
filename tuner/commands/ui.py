"""`ui`: the web pages. They are an extra, so they are looked for when they are asked for."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

NEEDED = ("gradio", "uvicorn", "jinja2")
"""What the extra brings."""


def ui(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at. Beyond this machine a login is asked for.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="Port; without it 7860, or the next free one.", show_default=False
        ),
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            help="Folder of datasets, runs and jobs; without it TUNER_WORKSPACE, else ~/tuner.",
            show_default=False,
        ),
    ] = None,
    login: Annotated[bool, typer.Option("--login", help="Ask for a password on this machine, too.")] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A further name that the server answers to; may be given again."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> int:
    """Start the web pages: drop photos, train, watch, download."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing or importlib.util.find_spec("webui") is None:
        raise UsageError("the web pages are not installed", "pip install 'diffusion-tuner[ui]'")
    serving = importlib.import_module("webui.guard.serve")
    serving.serve(serving.Options(workspace, host, port, login, tuple(allow_host or ()), open_), typer.echo)
    return 0
