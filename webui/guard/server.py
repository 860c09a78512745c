"""The HTTP server: it listens, says so, does not wait for slow strangers, and stops within two seconds."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tuner import atomic
from tuner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from .asgi import App

PORT, TRIED = 7860, 40
"""Where to listen when nothing else is asked, and how many ports after it are tried."""
HEAD_S = 15
"""A request's head must be here so soon after its connection, or after its first byte."""
HEAD_BYTES = 32 << 10
STOP_S = 1
"""How long answers may go on after the signal; an event stream never ends by itself."""
CONNECTIONS = 512


class PatientOnce(H11Protocol):
    """Closes a connection whose request does not get complete; uvicorn itself would wait for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._at_work():
            self._unwatch()
        elif self._deadline is None and not self.transport.is_closing():
            self._watch()

    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self._late)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if not self._at_work() and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Tells when it listens; ends without raising the signal that ended it anew.

    Args:
        ready: called once, when requests are answered.
        stopping: called first when it stops, to end what would go on.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready, self.stopping = ready, stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stopping()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # ours says less of what a scope holds
        http=PatientOnce,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=STOP_S,
    )


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens at `port`, or where that is None at the first free one from 7860 on.

    Raises: UsageError with the reason.
    """
    ports: Sequence[int] = range(PORT, PORT + TRIED) if port is None else (port,)
    reason: OSError | None = None
    for one in ports:
        try:
            return _bound(host, one)
        except OSError as error:
            reason = error
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                break
    if isinstance(reason, socket.gaierror) or (reason is not None and reason.errno == errno.EADDRNOTAVAIL):
        raise UsageError(f"--host {host}: this machine has no such address", "127.0.0.1 is this machine alone")
    where = f"port {port}" if port is not None else f"any port from {PORT} to {PORT + TRIED - 1}"
    why = "permission denied" if reason is not None and reason.errno == errno.EACCES else "it is in use"
    raise UsageError(f"cannot listen at {host}, {where}: {why}", "choose another one with --port")


def _bound(host: str, port: int) -> socket.socket:
    """Raises: OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        if not atomic.ON_WINDOWS:  # there it would share the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError:
        made.close()
        raise
    return made
