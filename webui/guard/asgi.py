"""The words of ASGI that the guards share, and how one of them answers in place of the pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Pairs = Sequence[tuple[bytes, bytes]]

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""


def values(scope: Scope, name: str) -> list[str]:
    """Every value that a request gives a header, in order; `name` in lower case."""
    key = name.encode("latin-1")
    return [value.decode("latin-1") for found, value in scope["headers"] if found.lower() == key]


def value(scope: Scope, name: str) -> str | None:
    """The header's one value; None where there is none. Two of them count as an empty one, which matches nothing."""
    found = values(scope, name)
    return (found[0] if len(found) == 1 else "") if found else None


async def answer(send: Send, status: int, text: str, headers: Pairs = ()) -> None:
    """A short answer in plain text; it never holds what the client sent."""
    body = (text + "\n").encode()
    fields = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
