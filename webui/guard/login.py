"""The login: who has no session gets a form, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ..html import render
from .asgi import answer, value, values
from .sessions import LIFE_S

if TYPE_CHECKING:
    from starlette.requests import Request

    from .asgi import App, Receive, Scope, Send
    from .passwords import Password
    from .sessions import Sessions
    from .throttle import Throttle

_QUERY = 300
"""The longest rest of an address that survives the login."""


class Door:
    """What a login needs: the password, the sessions, and how often it was tried.

    Args:
        port: part of the cookie's name, since cookies know no ports and two servers would log each other out.
    """

    def __init__(self, password: Password, sessions: Sessions, throttle: Throttle, port: int) -> None:
        self.password, self.sessions, self.throttle = password, sessions, throttle
        self.cookie = f"tuner-session-{port}"
        self.where = (
            "It was printed in the terminal when the server started."
            if password.generated
            else "Whoever runs the server chose it."
        )

    def token(self, scope: Scope) -> str | None:
        """The session's token that a request carries."""
        return cookie_parser("; ".join(values(scope, "cookie"))).get(self.cookie)

    def lets_in(self, scope: Scope) -> bool:
        token = self.token(scope)
        return token is not None and len(token) == 43 and self.sessions.knows(token)


class OnlyKnown:
    """Lets nobody without a session further than the form."""

    def __init__(self, app: App, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["tuner.rule"].open or self.door.lets_in(scope):
            return await self.app(scope, receive, send)
        if scope["tuner.rule"].page:
            query = scope.get("query_string", b"").decode("latin-1")
            back = f"?back={quote(query, safe='')}" if query and len(query) <= _QUERY else ""
            return await answer(send, 303, "log in first", ((b"location", f"/login{back}".encode()),))
        return await answer(send, 401, "log in first")


def routes(door: Door | None) -> list[Route]:
    """The login's own routes; without a door they lead to the page."""

    async def show(request: Request) -> Response:
        if door is None or door.lets_in(request.scope):
            return RedirectResponse("/", 303)
        return _form(door, request.query_params.get("back", ""))

    async def enter(request: Request) -> Response:
        if door is None:
            return RedirectResponse("/", 303)
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), max_num_fields=8))
        address = request.client.host if request.client else ""
        back = form.get("back", "")
        if wait := door.throttle.wait_s(address):
            return _form(
                door, back, f"Too many tries. Wait {_seconds(wait)}, then try again.", 429, {"Retry-After": str(wait)}
            )
        if not door.password.matches(form.get("password", "")):
            return _form(door, back, "That is not the password.", 403)
        door.throttle.right(address)
        old = door.token(request.scope)
        token = await run_in_threadpool(_renewed, door, old)
        response = RedirectResponse(_target(back), 303)
        response.set_cookie(
            door.cookie,
            token,
            max_age=int(LIFE_S),
            path="/",
            secure=_encrypted(request.scope),
            httponly=True,
            samesite="strict",
        )
        return response

    async def leave(request: Request) -> Response:
        if door is None:
            return RedirectResponse("/", 303)
        token = door.token(request.scope)
        if token is not None:
            await run_in_threadpool(door.sessions.end, token)
        response = RedirectResponse("/login", 303, {"Clear-Site-Data": '"cache"'})
        response.delete_cookie(door.cookie, path="/", httponly=True, samesite="strict")
        return response

    return [
        Route("/login", show, methods=["GET"]),
        Route("/login", enter, methods=["POST"]),
        Route("/logout", leave, methods=["POST"]),
    ]


def _renewed(door: Door, old: str | None) -> str:
    """A token that nobody had before the login; the one that came with it ends."""
    if old is not None:
        door.sessions.end(old)
    return door.sessions.begin()


def _form(door: Door, back: str, fault: str = "", status: int = 200, headers: dict[str, str] | None = None) -> Response:
    page = render("login.html", back=back if len(back) <= _QUERY else "", fault=fault, where=door.where)
    return HTMLResponse(page, status, headers)


def _target(back: str) -> str:
    """Always the page, with what stood behind it; never another address."""
    query = urlencode(parse_qsl(back, max_num_fields=8)) if 0 < len(back) <= _QUERY else ""
    return f"/?{query}" if query else "/"


def _encrypted(scope: Scope) -> bool:
    """Whether the visitor's browser sees https: ours, or a proxy's, which the form's own Origin tells."""
    return scope["scheme"] == "https" or (value(scope, "origin") or "").startswith("https://")


def _seconds(count: int) -> str:
    return "a second" if count == 1 else f"{count} seconds"
