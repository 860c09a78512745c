"""Bodies that are too long or too slow end, whatever the handler makes of it; slow heads, too."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from webui.guard import limits, server
from webui.guard.limits import BodyLimits
from webui.guard.routes import Rule


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


async def swallow(request):
    try:
        await request.body()
    except Exception:
        return PlainTextResponse("fine", 200)
    return PlainTextResponse("whole")


async def hasty(request):
    async def parts():
        yield b"begun"
        yield await request.body()

    from starlette.responses import StreamingResponse

    return StreamingResponse(parts())


INNER = Starlette(routes=[Route(f"/{f.__name__}", f, methods=["POST"]) for f in (echo, swallow, hasty)])


def send(path, pieces, limit=100, headers=(), **words):
    """Statuses and bodies that come out when a body comes in these pieces; a number is a pause."""

    async def go():
        said, rest = [], list(pieces)

        async def receive():
            while rest and not isinstance(rest[0], bytes):
                await asyncio.sleep(rest.pop(0))
            if not rest:
                await asyncio.sleep(3600)
            body = rest.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(rest)}

        async def sent(message):
            said.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": list(headers),
            "query_string": b"",
            "tuner.rule": Rule(("POST",), path, body=limit),
        }
        await asyncio.wait_for(BodyLimits(INNER, **words)(scope, receive, sent), 20)
        return said

    said = asyncio.run(go())
    assert [message["type"] for message in said].count("http.response.start") == 1
    return said[0]["status"], b"".join(message.get("body", b"") for message in said)


def test_a_body_within_the_limit_arrives_whole():
    assert send("/echo", [b"a" * 50, b"b" * 50]) == (200, b"100")


@pytest.mark.parametrize("path", ["/echo", "/swallow"])
def test_one_byte_more_is_refused_whatever_the_handler_does(path):
    assert send(path, [b"a" * 50, b"b" * 51])[0] == 413


@pytest.mark.parametrize("path", ["/echo", "/swallow"])
def test_a_body_that_stops_coming_is_cut_off(path):
    began = time.monotonic()
    assert send(path, [b"a", 30, b"b"], idle_s=0.1)[0] == 408
    assert time.monotonic() - began < 5


def test_a_trickle_is_cut_off_though_it_never_pauses_long():
    trickle = [piece for _ in range(200) for piece in (b"a", 0.02)] + [b"z"]
    assert send("/echo", trickle, limit=1000, idle_s=1, grace_s=0.2)[0] == 408


def test_a_slow_line_that_keeps_the_rate_is_not():
    steady = [piece for _ in range(20) for piece in (b"a" * limits.BYTES_PER_S, 0.02)] + [b"z"]
    assert send("/echo", steady, limit=1 << 20, idle_s=1, grace_s=0.05)[0] == 200


def test_half_an_answer_is_never_taken_for_a_whole_one():
    with pytest.raises(limits.Cut):
        send("/hasty", [b"a" * 50, b"b" * 51])


@pytest.mark.parametrize("length", ["101", "-1", "1e3", "0x10", "١", " ", "", "9" * 40])
def test_lengths_that_are_too_long_or_none_are_refused_before_the_body(length):
    assert send("/echo", [b""], headers=[(b"content-length", length.encode())])[0] in (400, 413)
    assert send("/echo", [b""], headers=[(b"content-length", b"1")] * 2)[0] == 400


def test_a_head_that_never_ends_loses_its_connection(monkeypatch):
    monkeypatch.setattr(server, "HEAD_S", 0.3)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await asyncio.sleep(0.6)  # longer than a head may take: an answer may
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    from stand_in import running

    from webui.guard.serve import Built

    with running(Built(app, None, lambda: None)) as url:
        port = int(url.rsplit(":", 1)[1])
        with (
            socket.create_connection(("127.0.0.1", port)) as silent,
            socket.create_connection(("127.0.0.1", port)) as slow,
        ):
            slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ")
            for one in (silent, slow):
                one.settimeout(5)
                assert one.recv(100) == b""
        with socket.create_connection(("127.0.0.1", port)) as whole:
            whole.settimeout(5)
            whole.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert whole.recv(1000).startswith(b"HTTP/1.1 200")
            whole.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A")  # the second request of a connection, too
            assert b"" in (whole.recv(100), whole.recv(100))
        with socket.create_connection(("127.0.0.1", port)) as long:
            long.settimeout(5)
            long.sendall(b"GET / HTTP/1.1\r\n" + b"X-A: " + b"a" * 60_000)
            assert long.recv(1000).startswith(b"HTTP/1.1 400")
