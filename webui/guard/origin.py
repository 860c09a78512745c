"""Where a request may come from: this server's own pages, so that no other site works it through someone's browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .asgi import SAFE, answer, value
from .hosts import Host

if TYPE_CHECKING:
    from .asgi import App, Receive, Scope, Send

_ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)")
_PORTS = {"http": 80, "https": 443}


class SameOrigin:
    """Refuses what another site started.

    What changes something must carry an Origin, and it must be ours. Every browser of the last years sends one with
    every POST; a request without is a script, and for scripts there is the command line. `null` (sandboxed frames,
    files, redirects across sites) is never ours. Where the browser says `Sec-Fetch-Site`, that must agree; reading is
    for our own pages, too, except that a link from anywhere may open a page.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        fault = _fault(scope)
        if fault is not None:
            return await answer(send, 403, fault)
        return await self.app(scope, receive, send)


def _fault(scope: Scope) -> str | None:
    site = value(scope, "sec-fetch-site")
    if scope["method"] in SAFE:
        if site in (None, "same-origin", "none") or (scope["tuner.rule"].page and _opens_a_page(scope)):
            return None
        return "only this server's own pages may ask for that"
    origin = value(scope, "origin")
    if origin is None:
        return "the request does not say which page it comes from; scripts use the `tuner` command"
    if site not in (None, "same-origin") or not is_own(origin, scope["tuner.host"]):
        return "only this server's own pages may do that"
    return None


def _opens_a_page(scope: Scope) -> bool:
    return value(scope, "sec-fetch-mode") == "navigate" and value(scope, "sec-fetch-dest") == "document"


def is_own(origin: str, host: Host) -> bool:
    """Whether an Origin names the host that the request went to. A proxy may add TLS, so both schemes are ours."""
    match = _ORIGIN.fullmatch(origin)
    page = Host.read(match[2]) if match else None
    if match is None or page is None:
        return False
    usual = _PORTS[match[1]]
    return page.name == host.name and (page.port or usual) == (host.port or usual)
