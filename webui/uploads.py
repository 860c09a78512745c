"""POST /upload/{dataset}?name=...: one dropped file a request, streamed to the disk and judged on arrival.

The body is the file itself. The answer is `{"verdicts": [...]}`, one for the file and one for each file in a zip;
what cannot be looked at at all is `{"error": ...}` with a status that says why.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anyio
from anyio import to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Route

from tuner import atomic
from tuner import dataset as core
from tuner.dataset import names
from tuner.dataset.landing import land
from tuner.dataset.limits import megabytes
from tuner.dataset.scratch import scratch
from tuner.errors import LockedError, StorageError, TunerError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request

    from .workspace import Workspace

HEADER = "x-file-name"
"""Instead of `?name=`: what the file is called, percent-encoded UTF-8."""
_PIECE = 2**20
_DRAINED = 2**28
"""Bytes of a refused body that are still taken, so that the browser gets to read why it is refused."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How much may be sent."""

    file_bytes: int = 64 * 2**20
    """One picture."""
    zip_bytes: int = 2 * 2**30
    """One zip, packed; and all that is in it, unpacked."""
    datasets_bytes: int = 20 * 2**30
    """All datasets of the workspace together."""
    decoders: int = 2
    """Files that are looked at at a time; the others wait on the disk."""


class _TooMuch(Exception):
    """A body beyond what may be sent."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def routes(workspace: Workspace, quota: Quota | None = None) -> list[Route]:
    return [Route("/upload/{dataset}", Uploads(workspace, quota or Quota()).take, methods=["POST"])]


class Uploads:
    """Takes files in for the datasets of one workspace."""

    def __init__(self, workspace: Workspace, quota: Quota) -> None:
        self.workspace, self.quota = workspace, quota
        self.space = Space(workspace.datasets, quota.datasets_bytes)

    @functools.cached_property
    def decoders(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(self.quota.decoders)

    async def take(self, request: Request) -> JSONResponse:
        name = request.query_params.get("name") or unquote(request.headers.get(HEADER, ""))
        try:
            place = await to_thread.run_sync(self.workspace.dataset, request.path_params["dataset"])
            return await self._take(request, core.Dataset(place), name)
        except ClientDisconnect:
            return JSONResponse({"error": "the connection ended before the file was there"}, 400)
        except TunerError as error:
            said = f"{error.message}; {error.hint}" if error.hint else error.message
            return JSONResponse({"error": said}, _status(error))

    async def _take(self, request: Request, dataset: core.Dataset, name: str) -> JSONResponse:
        async with _in_thread(scratch(dataset)) as folder, self.space.share() as share:
            file, body = folder / "upload", request.stream()
            limit = self.quota.zip_bytes if names.kind(name) == "zip" else self.quota.file_bytes
            announced = request.headers.get("content-length", "")
            try:
                if announced.isdecimal() and int(announced) > limit:
                    raise _TooMuch(413, _over(int(announced), limit))
                await _receive(body, file, limit, share)
            except _TooMuch as refused:
                await _drain(body)
                verdict = core.Verdict(names.display(name), accepted=False, reason=refused.reason)
                await to_thread.run_sync(land, dataset, dataset.incoming, [verdict])
                return JSONResponse({"error": refused.reason, "verdicts": [asdict(verdict)]}, refused.status)
            # A decoder is never given up half way: what it does is over in seconds, and then the file has its verdict.
            look = functools.partial(self._look, dataset, name, file, share)
            verdicts = await to_thread.run_sync(look, limiter=self.decoders)
        return JSONResponse({"verdicts": [asdict(verdict) for verdict in verdicts]})

    def _look(self, dataset: core.Dataset, name: str, file: Path, share: Share) -> list[core.Verdict]:
        limits = core.Limits(
            file_bytes=self.quota.file_bytes,
            zip_bytes=self.quota.zip_bytes,
            expanded_bytes=self.quota.zip_bytes,
            room_bytes=share.left,  # of now: others may have taken some while this one waited
            workers=1,
        )
        try:
            return core.intake(dataset, name, file, limits)
        finally:
            self.space.grown(dataset.path)


async def _receive(body: AsyncIterator[bytes], file: Path, limit: int, share: Share) -> None:
    """The body as a file. Raises: _TooMuch, ClientDisconnect, StorageError, what the guard raises of slow ones."""
    size, pieces, waiting = 0, [], 0
    async with _in_thread(_writing(file)) as write:
        async for piece in body:
            size += len(piece)
            if size > limit:
                raise _TooMuch(413, f"more than the limit of {megabytes(limit)}")
            if not share.take(len(piece)):
                raise _TooMuch(507, "no room is left for it; remove datasets that are not needed")
            pieces.append(piece)
            waiting += len(piece)
            if waiting >= _PIECE:
                await to_thread.run_sync(write, b"".join(pieces))
                pieces, waiting = [], 0
        if pieces:
            await to_thread.run_sync(write, b"".join(pieces))


def _over(size: int, limit: int) -> str:
    return f"{megabytes(size)}, more than the limit of {megabytes(limit)}"


async def _drain(body: AsyncIterator[bytes]) -> None:
    taken = 0
    async for piece in body:
        taken += len(piece)
        if taken > _DRAINED:
            return


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[Callable[[bytes], None]]:
    with atomic.storage(file), file.open("xb") as opened:

        def write(data: bytes) -> None:
            with atomic.storage(file):
                opened.write(data)

        yield write


@contextlib.asynccontextmanager
async def _in_thread(manager: Any) -> AsyncIterator[Any]:
    """A context manager whose ends may wait for the disk; it is left even where the request is cancelled."""
    value = await to_thread.run_sync(manager.__enter__)
    try:
        yield value
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(manager.__exit__, None, None, None)


def _status(error: TunerError) -> int:
    if isinstance(error, UsageError):
        return 404
    if isinstance(error, LockedError):
        return 503
    return 507 if isinstance(error, StorageError) else 409


@dataclass(slots=True)
class Share:
    """What one upload takes of the space."""

    space: Space
    taken: int = 0

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes more; they are counted until the upload ends."""
        self.taken += size
        return self.left >= 0

    @property
    def left(self) -> int:
        return self.space.left()


@dataclass(slots=True)
class Space:
    """How much of the workspace's datasets is used, over all uploads of this server at once."""

    datasets: Path
    limit: int
    _sizes: dict[str, int] = field(default_factory=dict)
    _shares: list[Share] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.asynccontextmanager
    async def share(self) -> AsyncIterator[Share]:
        await to_thread.run_sync(self._measure_new)
        share = Share(self)
        self._shares.append(share)
        try:
            yield share
        finally:
            self._shares.remove(share)

    def left(self) -> int:
        """Bytes; below 0 where more is on its way than fits."""
        return self.limit - sum(self._sizes.values()) - sum(share.taken for share in self._shares)

    def grown(self, dataset: Path) -> None:
        """Measure a dataset anew."""
        with self._lock:
            self._sizes[dataset.name] = folder_bytes(dataset)

    def _measure_new(self) -> None:
        with self._lock:
            there = {path.name: path for path in self.datasets.iterdir() if not path.name.startswith(".")}
            for name in self._sizes.keys() - there.keys():
                del self._sizes[name]
            for name in there.keys() - self._sizes.keys():
                self._sizes[name] = folder_bytes(there[name])


def folder_bytes(folder: Path) -> int:
    """Size of the files below a folder, but for those that are on their way in."""
    total = 0
    for where, folders, files in os.walk(folder):
        if ".incoming" in folders:
            folders.remove(".incoming")
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # moved meanwhile
                total += os.lstat(os.path.join(where, name)).st_size
    return total
