"""How much a request may send, and how slowly."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from .asgi import answer, values

if TYPE_CHECKING:
    from .asgi import App, Message, Receive, Scope, Send

PATH_BYTES, QUERY_BYTES, HEADER_BYTES, HEADERS = 2048, 4096, 16 << 10, 64
IDLE_S = 30.0
"""The longest pause within a body."""
GRACE_S, BYTES_PER_S = 20.0, 8 << 10
"""After the grace a body must have come in at least at this mean rate, or it never ends."""
_CLOSE = ((b"connection", b"close"),)


class HeadLimits:
    """Refuses a path, a query or headers that are longer than any of ours."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if len(scope.get("raw_path") or scope["path"].encode()) > PATH_BYTES:
                return await answer(send, 414, "that address is too long", _CLOSE)
            if len(scope.get("query_string", b"")) > QUERY_BYTES:
                return await answer(send, 414, "that address is too long", _CLOSE)
            headers = scope["headers"]
            if len(headers) > HEADERS or sum(len(name) + len(text) for name, text in headers) > HEADER_BYTES:
                return await answer(send, 431, "those headers are too long", _CLOSE)
        return await self.app(scope, receive, send)


class Cut(Exception):
    """A body that was too long or too slow; what the handler was doing with it ends here."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class BodyLimits:
    """Cuts off a body beyond its route's limit, or one that takes for ever."""

    def __init__(self, app: App, *, idle_s: float = IDLE_S, grace_s: float = GRACE_S) -> None:
        self.app, self.idle_s, self.grace_s = app, idle_s, grace_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        limit = scope["tuner.rule"].body
        fault = _announced(scope, limit)
        if fault is not None:
            return await answer(send, *fault, _CLOSE)
        measured = _Measured(receive, limit, self.idle_s, self.grace_s)
        said = _Said(send, measured)
        try:
            await self.app(scope, measured, said)
        except Cut:
            if said.started and not said.replaced:
                raise  # half an answer went out: the connection must break
            await said.refuse()
        return None


class _Said:
    """An answer on its way out. Where the body was cut off, that is the answer, whatever the handler made of it."""

    def __init__(self, send: Send, measured: _Measured) -> None:
        self.send, self.measured = send, measured
        self.started = self.replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self.measured.cut is not None:
            await self.refuse()
        elif not self.replaced:
            self.started = True
            await self.send(message)

    async def refuse(self) -> None:
        cut = self.measured.cut
        if cut is not None and not self.started and not self.replaced:
            self.replaced = True
            await answer(self.send, cut.status, cut.text, _CLOSE)


def _announced(scope: Scope, limit: int) -> tuple[int, str] | None:
    """What is wrong with the length that the headers announce."""
    lengths = values(scope, "content-length")
    if not lengths:
        return None
    if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
        return 400, "that is no length"
    if len(lengths[0]) > 15 or int(lengths[0]) > limit:
        return 413, f"that is more than the {limit:,} bytes which may be sent here"
    return None


class _Measured:
    """A request's `receive` that counts and watches the clock.

    Handlers that catch every exception still see none of the body that follows: each further call raises again.
    """

    def __init__(self, receive: Receive, limit: int, idle_s: float, grace_s: float) -> None:
        self.receive, self.limit, self.idle_s, self.grace_s = receive, limit, idle_s, grace_s
        self.began, self.taken, self.whole = time.monotonic(), 0, False
        self.cut: Cut | None = None

    async def __call__(self) -> Message:
        if self.cut is not None:
            raise self.cut
        if self.whole:  # from here on this waits for the client to leave
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), self.idle_s)
        except TimeoutError:
            raise self._end(408, "the request did not come to its end") from None
        if message["type"] == "http.request":
            self.taken += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
            if self.taken > self.limit:
                raise self._end(413, f"that is more than the {self.limit:,} bytes which may be sent here")
            late = time.monotonic() - self.began - self.grace_s
            if not self.whole and late > self.taken / BYTES_PER_S:
                raise self._end(408, "the request came too slowly")
        return message

    def _end(self, status: int, text: str) -> Cut:
        self.cut = Cut(status, text)
        return self.cut
