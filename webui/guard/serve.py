"""`tuner ui`: our routes and Gradio's page in one app, behind the guards, on one port."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import shutil
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.routing import Mount

from tuner import atomic
from tuner.errors import UsageError
from tuner.redact import redact

from ..workspace import Workspace
from . import hosts, login, own, passwords, policy, server
from .passwords import Password
from .sessions import Sessions
from .throttle import Throttle
from .wall import wall

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from gradio.routes import App as GradioApp

    from .asgi import App

    Page = tuple[gr.Blocks, Mapping[str, Any]]

QUEUE = 256
"""Events of pages that may wait; beyond that a page is told to try again."""
CACHE_S = (3600, 86400)
"""How often Gradio looks for old files in its own folder, and from which age on they go; no page puts any there."""
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # it would make a table of the last 10,000 events after each event, for a page of statistics that is shut
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
}
"""Said to Gradio and its libraries."""
THREADS = 16
"""Event handlers at once."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    workspace: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    """None: 7860, or the next free one."""
    login: bool = False
    """Also on this machine alone; elsewhere there always is one."""
    allow_hosts: tuple[str, ...] = ()
    """Further names that the server answers to, as `name` or `name:port`."""
    open: bool = False
    """Show the page in a browser."""

    def __post_init__(self) -> None:
        for name in self.allow_hosts:
            if hosts.Host.read(name) is None:
                raise UsageError(
                    f"--allow-host {name!r} is no name of a host", "such as gpu.example or gpu.example:8443"
                )

    @property
    def local(self) -> bool:
        return hosts.is_loopback(self.host)


@dataclass(frozen=True, slots=True)
class Built:
    """The app, and what ends its event streams when the server stops."""

    app: App
    inner: FastAPI
    """Behind the guards."""
    stop: Callable[[], None]


def serve(options: Options, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Several servers may share a workspace: jobs and runs have their own locks.

    Args:
        say: prints a line for the person at the terminal.

    Raises: UsageError, StorageError.
    """
    workspace = Workspace.open(options.workspace)
    listening = server.listen(options.host, options.port)
    try:
        port = listening.getsockname()[1]
        os.umask(0o077)
        place = settle(workspace, port)
        _log_to(place / "server.log")
        password = _password() if options.login or not options.local else None
        door = None
        if password is not None:
            door = login.Door(password, Sessions(place / "sessions.json", password), Throttle(), port)
        built = build(workspace, names(options), door=door, own_address=not options.local)
        address = f"http://{shown(options.host)}:{port}"

        def ready() -> None:
            say(f"tuner is at {address}   (stop it with Ctrl-C; runs and jobs go on)")
            if password is not None and password.generated:
                say(f"password: {password.text}")
            if not options.local:
                say("nothing is encrypted on the way: across networks of others use `ssh -L` or a proxy with https")
            if options.open:
                webbrowser.open(address)

        running = server.Server(server.config(built.app), ready, built.stop)
        running.run(sockets=[listening])
    finally:
        listening.close()


def names(options: Options) -> frozenset[str]:
    """The names that the server answers to."""
    found = {*hosts.LOOPBACK, *(name.lower() for name in options.allow_hosts)}
    if not options.local:
        found |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        if hosts.literal(options.host) is None:
            found.add(options.host.lower())
    return frozenset(found)


def shown(host: str) -> str:
    """The host as it stands in an address that works from where people are."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def settle(workspace: Workspace, port: int) -> Path:
    """The server's own folder, made, and everything of the process turned to it.

    Gradio serves files from the working directory and from the folder for temporary files to whoever names them, so
    both are empty folders here, even though its routes for that are shut. What the environment says to Gradio is not
    heard: some of it opens doors.

    Raises: StorageError.
    """
    place = workspace.root / "ui" / str(port)
    empty, scratch = place / "empty", place / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a predecessor that was killed; whoever has the port has the folder
    with atomic.storage(place, "cannot make"):
        for folder in (empty, scratch):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chdir(empty)
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update({"GRADIO_TEMP_DIR": str(scratch), **QUIET})
    tempfile.tempdir = str(scratch)  # not TMPDIR, which jobs would inherit
    return place


def _password() -> Password:
    file = os.environ.get(passwords.VARIABLE)
    return Password.read(Path(file)) if file else Password.generate()


def build(
    workspace: Workspace,
    allowed: frozenset[str],
    *,
    door: login.Door | None = None,
    own_address: bool = False,
    page: Callable[[], Page] | None = None,
) -> Built:
    """The whole app.

    Args:
        allowed: the names that the server answers to.
        door: the login, if there is one.
        own_address: see `hosts.TrustedHosts`.
        page: makes the page, with `theme`, `css`, `head` and `js` for it; that of `webui.pages` if None.
    """
    from fastapi import FastAPI

    parent = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    parent.router.routes.extend(own.routes(workspace, door))
    blocks, looks = _within_a_loop(partial(_mounted, parent, page or partial(_page, workspace, door is not None)))
    mounted = gradio_app(parent)

    def stop() -> None:
        mounted.stop_event.set()
        blocks.is_running = False

    scripts = policy.OwnScripts(_template(), str(looks.get("head") or ""))
    return Built(
        inner=parent, stop=stop, app=wall(parent, hosts=allowed, own_address=own_address, door=door, scripts=scripts)
    )


def _within_a_loop(making: Callable[[], Page]) -> Page:
    """What it makes, made while a loop runs: Gradio otherwise starts one after the other and closes none."""

    async def made() -> Page:
        return making()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(made())
    return making()


def _mounted(parent: FastAPI, page: Callable[[], Page]) -> Page:
    """Gradio's app at `/`, behind our own routes."""
    os.environ.update(QUIET)
    import gradio as gr

    blocks, looks = page()
    blocks.queue(max_size=QUEUE, api_open=False)
    blocks.max_threads = THREADS
    blocks.delete_cache = CACHE_S
    gr.mount_gradio_app(
        parent,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=True,
        max_file_size="1kb",
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        **looks,
    )
    return blocks, looks


def _page(workspace: Workspace, login: bool) -> Page:
    pages, look = (importlib.import_module(f"webui.{name}") for name in ("pages", "pages.look"))
    return pages.build(workspace, login=login), look.launch_options()


def gradio_app(parent: FastAPI) -> GradioApp:
    """What Gradio mounted."""
    from gradio.routes import App

    return next(route.app for route in parent.routes if isinstance(route, Mount) and isinstance(route.app, App))


def _template() -> str:
    """The page that Gradio fills."""
    from gradio.route_utils import STATIC_TEMPLATE_LIB

    return Path(STATIC_TEMPLATE_LIB, "frontend", "index.html").read_text(encoding="utf-8")


def _log_to(file: Path) -> None:
    """Keep what the server has to say in a file of 1 MB, and as much again of older lines; the terminal stays quiet."""
    handler = RotatingFileHandler(file, maxBytes=1 << 20, backupCount=1, encoding="utf-8", delay=True)
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_worth_keeping)
    for name in ("webui", "uvicorn", "asyncio", "gradio", "httpx", "httpx2"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.WARNING)
        logger.propagate = False


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _worth_keeping(record: logging.LogRecord) -> bool:
    """All but what a stop does to event streams."""
    return not record.getMessage().startswith("Cancel ") and not _cancelled(record)


def _cancelled(record: logging.LogRecord) -> bool:
    return record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
