"""Every route that is ours."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .. import media, uploads
from . import login

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from ..workspace import Workspace

_DAY = {"Cache-Control": "public, max-age=86400"}


def routes(workspace: Workspace, door: login.Door | None) -> list[BaseRoute]:
    return [*login.routes(door), *media.routes(workspace), *uploads.routes(workspace), *_small()]


def _small() -> list[Route]:
    icon = files("webui").joinpath("static", "favicon.png").read_bytes()

    async def favicon(_: Request) -> Response:
        return Response(icon, media_type="image/png", headers=_DAY)

    async def manifest(_: Request) -> Response:
        return JSONResponse({"name": "tuner", "short_name": "tuner", "start_url": "/", "display": "browser"})

    async def robots(_: Request) -> Response:
        return PlainTextResponse("User-agent: *\nDisallow: /\n", headers=_DAY)

    return [Route("/favicon.ico", favicon), Route("/manifest.json", manifest), Route("/robots.txt", robots)]
