"""Pictures and files for the pages: looked up by id, encoded by this program, with a type that is fixed beforehand."""

from __future__ import annotations

import stat
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tuner.errors import StorageError, TunerError

from . import downloads, listed
from .downloads import TYPES
from .workspace import UnknownId

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from .workspace import Workspace

FOREVER = "private, max-age=31536000, immutable"
"""For files that keep their name as long as they are the same."""
ASK = "private, no-cache"
"""For files that may change: the browser asks each time, and gets a short answer where they did not."""
PICTURES = {suffix: kind for suffix, kind in TYPES.items() if kind.startswith("image/")}
FILES = "files"
"""The folder of a job that holds what it made for the pages."""


def routes(workspace: Workspace) -> list[Route]:
    """The routes of pictures and downloads."""

    def thumb(request: Request) -> Response:
        folder = listed.subfolder(workspace.dataset(_part(request, "dataset")), "thumbs")
        return _picture(_first(folder, _part(request, "picture"), (".webp",)), FOREVER)

    def picture(request: Request) -> Response:
        folder = listed.subfolder(workspace.dataset(_part(request, "dataset")), "images")
        return _picture(_first(folder, _part(request, "picture"), (".png", ".jpg")), FOREVER, request)

    def sample(request: Request) -> Response:
        samples = listed.subfolder(workspace.run(_part(request, "run")), "samples")
        step = listed.subfolder(samples, _part(request, "step")) if samples is not None else None
        return _picture(_first(step, _part(request, "index"), (".png",)), ASK, request)

    def job_picture(request: Request) -> Response:
        path = _of_job(workspace, request)
        return _picture(path if path is not None and path.suffix in PICTURES else None, ASK, request)

    def job_file(request: Request) -> Response:
        path = _of_job(workspace, request)
        return _attachment(path, path.name if path is not None else "", request)

    def run_file(request: Request) -> Response:
        found = downloads.find(workspace, _part(request, "run"), _part(request, "what"))
        return _attachment(found.path if found else None, found.filename if found else "", request)

    def dataset_zip(request: Request) -> Response:
        from tuner.dataset import Dataset
        from tuner.dataset.export import pack

        # made while it is sent: nothing waits, nothing is copied, and nothing stays behind a server that dies
        packed = pack(Dataset(workspace.dataset(_part(request, "dataset"))))
        headers = {"Cache-Control": "no-store", "Content-Disposition": _named(f"{packed.name}.zip")}
        if packed.bytes is not None:
            headers["Content-Length"] = str(packed.bytes)
        pieces = iter(()) if request.method == "HEAD" else packed.pieces
        return StreamingResponse(pieces, 200, headers, TYPES[".zip"])

    paths: dict[str, Callable[[Request], Response]] = {
        "/media/thumb/{dataset}/{picture}": thumb,
        "/media/picture/{dataset}/{picture}": picture,
        "/media/sample/{run}/{step}/{index}": sample,
        "/media/job/{job}/{name}": job_picture,
        "/download/dataset/{dataset}": dataset_zip,
        "/download/job/{job}/{name}": job_file,
        "/download/run/{run}/{what}": run_file,
    }
    return [Route(path, _answering(handler), methods=["GET"]) for path, handler in paths.items()]


def _answering(handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        try:
            return handler(request)
        except UnknownId as error:
            return PlainTextResponse(error.message, 404)
        except StorageError as error:
            return PlainTextResponse(error.message, 503)
        except TunerError as error:
            return PlainTextResponse(error.message, 422)
        except FileNotFoundError:  # deleted since it was listed
            return _nothing()

    return answer


def _part(request: Request, name: str) -> str:
    return request.path_params[name]


def _nothing() -> Response:
    return PlainTextResponse("there is no such file; it may have been deleted", 404)


def _first(folder: Path | None, stem: str, endings: tuple[str, ...]) -> Path | None:
    if folder is None:
        return None
    return next((path for ending in endings if (path := listed.file(folder, stem + ending)) is not None), None)


def _of_job(workspace: Workspace, request: Request) -> Path | None:
    folder = listed.subfolder(workspace.job(_part(request, "job")), FILES)
    path = listed.file(folder, _part(request, "name")) if folder is not None else None
    return path if path is not None and path.suffix in TYPES else None


def _picture(path: Path | None, cache: str, request: Request | None = None) -> Response:
    if path is None:
        return _nothing()
    return _file(path, PICTURES[path.suffix], {"Cache-Control": cache}, request)


def _attachment(path: Path | None, filename: str, request: Request) -> Response:
    if path is None:
        return _nothing()
    return _file(path, TYPES[path.suffix], {"Cache-Control": ASK}, request, filename=safe_name(filename))


def _file(
    path: Path, kind: str, headers: dict[str, str], request: Request | None, filename: str | None = None
) -> Response:
    """The file, or a part of it, or that it is what the browser has; never a copy. Raises: FileNotFoundError."""
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode):
        return _nothing()
    response = FileResponse(path, 200, headers, kind, stat_result=facts, filename=filename)
    if request is not None and response.headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={**headers, "ETag": response.headers["etag"]})
    return response


def _named(filename: str) -> str:
    """What makes the browser keep the answer as a file of that name."""
    return f"attachment; filename*=utf-8''{quote(safe_name(filename), safe='')}"


def safe_name(name: str) -> str:
    """A file name that every system takes and that shows as what it is: no separators, controls or turned direction."""
    kept = "".join("_" if char in '/\\:*?"<>|' else char for char in name if unicodedata.category(char)[0] != "C")
    return kept.strip(". ")[:150] or "file"
