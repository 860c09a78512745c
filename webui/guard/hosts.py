"""Whose name a request must carry: a page elsewhere that made its own name point here (DNS rebinding) is refused."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .asgi import answer, values

if TYPE_CHECKING:
    from .asgi import App, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Host:
    """A name, in lower case, and the port after it, if one is written."""

    name: str
    port: int | None

    @classmethod
    def read(cls, text: str) -> Host | None:
        """What `name`, `name:port` or `[::1]:port` says; None for anything else."""
        match = _HOST.fullmatch(text)
        if match is None or not match["name"].rstrip("."):
            return None
        port = int(match["port"]) if match["port"] else None
        if port is not None and not 0 < port < 1 << 16:
            return None
        return cls(match["name"].lower().removesuffix("."), port)


def is_loopback(name: str) -> bool:
    """Whether only programs of this machine reach a server that listens there."""
    if name == "localhost":
        return True
    address = literal(name)
    return address is not None and address.is_loopback


def literal(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `127.0.0.1`, `::1` or `[::1]` spells; None for a name."""
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


class TrustedHosts:
    """Refuses a request whose Host is none of ours.

    A name without a port stands for every port: tunnels and proxies change it, and a rebound name stays another name.

    Args:
        allowed: names, or `name:port` where only that port is meant; in lower case.
        own_address: whether the address that the connection came in on counts, too; no name can pretend to be one.
    """

    def __init__(self, app: App, allowed: frozenset[str], *, own_address: bool) -> None:
        self.app, self.allowed, self.own_address = app, allowed, own_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        found = values(scope, "host")
        host = Host.read(found[0]) if len(found) == 1 else None
        if host is None or not self._ours(host, scope):
            return await answer(
                send, 400, "this server does not answer to that name; start it with --allow-host and the name"
            )
        scope["tuner.host"] = host
        return await self.app(scope, receive, send)

    def _ours(self, host: Host, scope: Scope) -> bool:
        if host.name in self.allowed or f"{host.name}:{host.port}" in self.allowed:
            return True
        server = scope.get("server")
        if not self.own_address or not server or not isinstance(server[0], str):
            return False
        named, own = literal(host.name), literal(server[0].split("%")[0])
        return named is not None and own is not None and _plain(named) == _plain(own)


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A socket for both families names a v4 address as `::ffff:192.0.2.1`."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
