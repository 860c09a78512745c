"""The headers that every answer carries, whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import policy

if TYPE_CHECKING:
    from .asgi import App, Message, Receive, Scope, Send

ALWAYS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # `no-referrer` would make browsers send `Origin: null` with the login form
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-permitted-cross-domain-policies", b"none"),
    (b"x-robots-tag", b"noindex, nofollow"),
    (
        b"permissions-policy",
        b"accelerometer=(), autoplay=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), hid=(), "
        b"magnetometer=(), microphone=(), midi=(), payment=(), publickey-credentials-get=(), serial=(), usb=(), "
        b"xr-spatial-tracking=(), clipboard-read=(), clipboard-write=(self), fullscreen=(self)",
    ),
)
_DROPPED = (b"access-control-", b"server", b"x-powered-by", b"x-gradio-")
"""Nobody else may read our answers, and nobody needs to know what made them."""
_FORGED = (b"x-forwarded-", b"forwarded", b"x-real-ip", b"x-direct-url", b"x-gradio-", b"x-original-", b"x-rewrite-")
"""Request headers that Gradio builds addresses from; anyone can send them, so it gets none."""


class Headers:
    """The outermost guard: also what the other guards answer gets the headers."""

    def __init__(self, app: App, scripts: policy.OwnScripts) -> None:
        self.app, self.scripts = app, scripts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["headers"] = [pair for pair in scope["headers"] if not pair[0].lower().startswith(_FORGED)]
        if scope["path"] == "/":  # its scripts are read below, so it must not be compressed
            scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != b"accept-encoding"]
        return await self.app(scope, receive, _Dressed(scope, send, self.scripts))


class _Dressed:
    """One answer on its way out. That of Gradio's page waits until it is whole: its policy names its scripts."""

    def __init__(self, scope: Scope, send: Send, scripts: policy.OwnScripts) -> None:
        self.scope, self.send, self.scripts = scope, send, scripts
        self.held: dict[str, Any] | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            rule = self.scope.get("tuner.rule")
            kind = rule.policy if rule is not None else "inert"
            whole = message["status"] == 200 and self.scope["method"] == "GET"
            if kind == "page" and not whole:
                kind = "inert"
            dressed = {**message, "headers": _with(message.get("headers", ()), kind)}
            if kind == "page":
                self.held = dressed
            else:
                await self.send(dressed)
        elif self.held is None:
            await self.send(message)
        else:
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                allowed = policy.page(self.scripts.of(self.body.decode(errors="replace")))
                self.held["headers"].append((b"content-security-policy", allowed.encode()))
                await self.send(self.held)
                await self.send({"type": "http.response.body", "body": self.body})


_POLICIES = {"login": policy.LOGIN, "asset": policy.ASSET, "inert": policy.INERT}


def _with(headers: Any, kind: str) -> list[tuple[bytes, bytes]]:
    fixed = {name for name, _ in ALWAYS} | {b"content-security-policy"}
    kept = [
        (name, text) for name, text in headers if name.lower() not in fixed and not name.lower().startswith(_DROPPED)
    ]
    if not any(name.lower() == b"cache-control" for name, _ in kept):
        # Gradio's files carry a hash of what they hold in their names
        kept.append((b"cache-control", b"private, max-age=86400" if kind == "asset" else b"no-store"))
    if kind in _POLICIES:
        kept.append((b"content-security-policy", _POLICIES[kind].encode()))
    return [*kept, *ALWAYS]
