"""The guards in their order around an app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .headers import Headers
from .hosts import TrustedHosts
from .limits import BodyLimits, HeadLimits
from .login import Door, OnlyKnown
from .origin import SameOrigin
from .routes import OnlyThese

if TYPE_CHECKING:
    from .asgi import App, Receive, Scope, Send
    from .policy import OwnScripts


class OnlyHttp:
    """Refuses websockets and whatever else comes; nothing of ours speaks it."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "lifespan"):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})


def wall(app: App, *, hosts: frozenset[str], own_address: bool, door: Door | None, scripts: OwnScripts) -> App:
    """The app behind all guards; a request meets them from the last line to the first.

    Args:
        hosts: the names that the server answers to.
        own_address: see `TrustedHosts`.
        door: the login; None where none is asked for.
        scripts: the inline scripts that its page may hold.
    """
    guarded: App = BodyLimits(app)
    if door is not None:
        guarded = OnlyKnown(guarded, door)
    guarded = SameOrigin(guarded)
    guarded = OnlyThese(guarded)
    guarded = TrustedHosts(guarded, hosts, own_address=own_address)
    guarded = HeadLimits(guarded)
    return OnlyHttp(Headers(guarded, scripts))
