"""The only doors: method and path of everything that is served, and by name all that Gradio offers and we keep shut."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from .asgi import answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .asgi import App, Receive, Scope, Send

Policy = Literal["page", "login", "asset", "inert"]
"""Which content policy an answer gets: see `policy.py`."""

FORM_BYTES = 8 << 10
EVENT_BYTES = 1 << 20
"""A page's event: its fields' values. The longest is a recipe, of 256 KB at most."""
UPLOAD_BYTES = 4 << 30
"""One picture or one archive. What may really be sent is less, and `uploads.py` says so with a reason."""

_SEGMENTS: Mapping[str, str] = {
    "dataset": r"[0-9a-f]{16}",
    "job": r"[0-9a-f]{16}",
    "picture": r"[A-Za-z0-9_-]{1,128}",
    "what": r"[0-9a-f]{16}",
    "run": r"[^/]{1,255}",
    "name": r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}",
    "step": r"[0-9]{1,9}",
    "index": r"[0-9]{1,4}",
    "session_hash": r"[A-Za-z0-9_-]{1,64}",
    "path": r"[A-Za-z0-9_-][A-Za-z0-9._@-]{0,127}(?:/[A-Za-z0-9_-][A-Za-z0-9._@-]{0,127}){0,6}",
}
"""What may stand for a path's parameter. Each is looked up afterwards; this only keeps nonsense from getting so far."""


@dataclass(frozen=True)
class Rule:
    """One door."""

    methods: tuple[str, ...]
    path: str
    """As Starlette writes it."""
    policy: Policy = "inert"
    body: int = 0
    """The most bytes that a request may send."""
    open: bool = field(default=False, kw_only=True)
    """Whether it is served before login: nothing of the workspace is behind it."""
    page: bool = field(default=False, kw_only=True)
    """Whether a link on another site may lead here, and a visitor without a session is shown the way to the login."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        pieces = re.split(r"\{(\w+)(?::path)?\}", self.path)
        named = [re.escape(piece) if i % 2 == 0 else _SEGMENTS[piece] for i, piece in enumerate(pieces)]
        return re.compile("".join(named))


GET, POST = ("GET", "HEAD"), ("POST",)
GET_ALONE = ("GET",)
"""Gradio has no HEAD for these."""

OWN: Sequence[Rule] = (
    Rule(GET, "/media/thumb/{dataset}/{picture}"),
    Rule(GET, "/media/picture/{dataset}/{picture}"),
    Rule(GET, "/media/sample/{run}/{step}/{index}"),
    Rule(GET, "/media/job/{job}/{name}"),
    Rule(GET, "/download/run/{run}/{what}"),
    Rule(GET, "/download/dataset/{dataset}"),
    Rule(GET, "/download/job/{job}/{name}"),
    Rule(POST, "/upload/{dataset}", body=UPLOAD_BYTES),
    Rule(GET, "/login", "login", open=True, page=True),
    Rule(POST, "/login", "login", body=FORM_BYTES, open=True),
    Rule(POST, "/logout", "login", body=FORM_BYTES, open=True),
    Rule(GET, "/favicon.ico", open=True),
    Rule(GET, "/manifest.json", open=True),
    Rule(GET, "/robots.txt", open=True),
)
"""Ours."""

GRADIO: Sequence[Rule] = (
    Rule(GET, "/", "page", page=True),
    Rule(GET, "/assets/{path:path}", "asset"),
    Rule(GET, "/static/{path:path}", "asset"),
    Rule(GET, "/theme.css", "asset"),
    Rule(GET_ALONE, "/gradio_api/app_id"),
    Rule(GET_ALONE, "/gradio_api/heartbeat/{session_hash}"),
    Rule(GET_ALONE, "/gradio_api/queue/data"),
    Rule(POST, "/gradio_api/queue/join", body=EVENT_BYTES),
    Rule(POST, "/gradio_api/cancel", body=FORM_BYTES),
)
"""Gradio's, as far as its page needs them; found by watching it."""

DENIED: Mapping[str, str] = {
    "/config": "stands in the page",
    "/config/": "stands in the page",
    "/gradio_api/startup-events": "they run when the server starts",
    "/gradio_api/user": "our own login knows one user",
    "/gradio_api/user/": "our own login knows one user",
    "/gradio_api/login_check": "our own login",
    "/gradio_api/login_check/": "our own login",
    "/gradio_api/token": "our own login",
    "/gradio_api/token/": "our own login",
    "/login/": "our own login",
    "/logout": "ours takes a POST: a link shall log nobody out",
    "/gradio_api/app_id/": "one spelling is enough",
    "/gradio_api/dev/reload": "for developers of a page",
    "/svelte/{path:path}": "custom components, which we have none of",
    "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}": "custom components, which we have none of",
    "/gradio_api/runs": "what was typed is not kept",
    "/gradio_api/runs/": "what was typed is not kept",
    "/gradio_api/run-history/connect": "what was typed is not kept, least of all elsewhere",
    "/gradio_api/run-history/buckets": "what was typed is not kept, least of all elsewhere",
    "/gradio_api/run-history/records": "what was typed is not kept, least of all elsewhere",
    "/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}": "what was typed is not kept",
    "/gradio_api/deep_link": "writes a page's state to the disk; our links name a run",
    "/gradio_api/info": "a description for programs; they use the command line",
    "/gradio_api/info/": "a description for programs; they use the command line",
    "/gradio_api/openapi.json": "a description for programs; they use the command line",
    "/gradio_api/proxy={url_path:path}": "fetches from elsewhere",
    "/gradio_api/file={path_or_url:path}": "serves by path, and fetches from elsewhere",
    "/gradio_api/file/{path:path}": "serves by path",
    "/gradio_api/stream/{event_id}": "audio and video",
    "/gradio_api/stream/{event_id}/close": "audio and video",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8": "audio and video",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}": "audio and video",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file": "audio and video",
    "/gradio_api/reset": "does nothing",
    "/gradio_api/reset/": "does nothing",
    "/gradio_api/run/{api_name}": "for programs; they use the command line",
    "/gradio_api/run/{api_name}/": "for programs; they use the command line",
    "/gradio_api/api/{api_name}": "for programs; they use the command line",
    "/gradio_api/api/{api_name}/": "for programs; they use the command line",
    "/gradio_api/call/{api_name}": "for programs; they use the command line",
    "/gradio_api/call/{api_name}/": "for programs; they use the command line",
    "/gradio_api/call/{api_name}/{event_id}": "for programs; they use the command line",
    "/gradio_api/call/v2/{api_name}": "for programs; they use the command line",
    "/gradio_api/call/v2/{api_name}/": "for programs; they use the command line",
    "/gradio_api/call/v2/{api_name}/{event_id}": "for programs; they use the command line",
    "/gradio_api/queue/status": "not asked for by the page",
    "/gradio_api/component_server": "calls a component's own functions, which no component of ours has",
    "/gradio_api/component_server/": "calls a component's own functions, which no component of ours has",
    "/gradio_api/upload": "stores what nobody has judged; ours is /upload/{dataset}",
    "/gradio_api/upload_progress": "belongs to Gradio's upload",
    "/gradio_api/theme.css": "the page takes /theme.css",
    "/gradio_api/process_recording": "audio and video",
    "/gradio_api/vibe-edit": "writes a page's source",
    "/gradio_api/vibe-edit/": "writes a page's source",
    "/gradio_api/undo-vibe-edit": "writes a page's source",
    "/gradio_api/undo-vibe-edit/": "writes a page's source",
    "/gradio_api/vibe-code": "reads and writes a page's source",
    "/gradio_api/vibe-code/": "reads and writes a page's source",
    "/gradio_api/vibe-starter-queries": "writes a page's source",
    "/gradio_api/vibe-starter-queries/": "writes a page's source",
    "/gradio_api/profiling/traces": "for developers of Gradio",
    "/gradio_api/profiling/summary": "for developers of Gradio",
    "/gradio_api/profiling/clear": "for developers of Gradio",
    "/monitoring": "shows what others typed",
    "/monitoring/summary": "shows what others typed",
    "/monitoring/{key}": "shows what others typed",
    "/pwa_icon": "the page is no installed program",
    "/pwa_icon/{size}": "the page is no installed program",
    "/openapi.json": "a description for programs; they use the command line",
    "/docs": "a description for programs; they use the command line",
    "/docs/oauth2-redirect": "a description for programs; they use the command line",
    "/redoc": "a description for programs; they use the command line",
}
"""Gradio's other routes, and why each is shut. Listed so that one that a new version brings fails a test."""

ALLOWED: Sequence[Rule] = (*OWN, *GRADIO)

_STRANGE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|//|(?:^|/)\.{1,2}(?:/|$)")
"""What no path of ours holds after decoding: control characters, backslashes, empty, `.` and `..` segments."""


def find(method: str, path: str) -> Rule | None:
    """The door for a request, or None: there is none."""
    if _STRANGE.search(path):
        return None
    return next((rule for rule in ALLOWED if method in rule.methods and rule.pattern.fullmatch(path)), None)


class OnlyThese:
    """Answers 404 to everything that has no door, before any route of Gradio's sees it."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        rule = find(scope["method"], scope["path"])
        if rule is None:
            return await answer(send, 404, "there is nothing here")
        scope["tuner.rule"] = rule
        return await self.app(scope, receive, send)
