"""Every route against what a stranger may send: nothing but what it is for gets a 2xx."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import unquote

import pytest
import stand_in
from starlette.testclient import TestClient

from webui.guard import routes
from webui.guard.hosts import LOOPBACK, Host, TrustedHosts, is_loopback
from webui.guard.login import Door
from webui.guard.origin import is_own
from webui.guard.passwords import Password
from webui.guard.sessions import Sessions
from webui.guard.throttle import Throttle
from webui.workspace import Workspace

HERE = "http://127.0.0.1:7860"
DATASET, JOB, PICTURE = "0" * 16, "1" * 16, "2" * 16
FILLED = {
    "dataset": DATASET,
    "job": JOB,
    "picture": PICTURE,
    "run": "dog-1",
    "step": "10",
    "index": "0",
    "what": "3" * 16,
    "name": "a.png",
    "session_hash": "abcdefgh",
    "path": "js/iframeResizer.contentWindow.min.js",
}
TRAVERSALS = [
    "..",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "..%5c..%5cwindows",
    "..%255c",
    "%00",
    "a%00.png",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "....//....//etc/passwd",
    "%c0%ae%c0%ae%c0%afetc",
    "%ef%bc%8e%ef%bc%8e",
    "file:%2f%2f%2fetc%2fpasswd",
    "http:%2f%2f169.254.169.254%2f",
    "a%0d%0aX-Injected:%201",
    "%e2%80%ae",
    "-",
    ".",
    "CON",
    "~",
    "$HOME",
    "a" * 1900,
]
LOOP = asyncio.new_event_loop()
CASES = [(method, rule) for rule in routes.ALLOWED for method in rule.methods]
NAMES = [f"{method} {rule.path}" for method, rule in CASES]


@pytest.fixture(scope="module", autouse=True)
def loop():
    yield
    left = asyncio.all_tasks(LOOP)
    for task in left:
        task.cancel()
    if left:
        LOOP.run_until_complete(asyncio.wait(left))
    LOOP.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = Workspace.open(tmp_path_factory.mktemp("guarded"))
    secret = workspace.root / "secret.png"
    secret.write_bytes(b"\x89PNG secret")
    for folder in (
        workspace.datasets / DATASET / "thumbs",
        workspace.datasets / DATASET / "images",
        workspace.runs / "dog-1" / "samples" / "10",
        workspace.runs / "dog-1" / "adapter",
        workspace.jobs / JOB / "files",
    ):
        folder.mkdir(parents=True)
    return workspace


@pytest.fixture(scope="module")
def open_app(place):
    return stand_in.built(place).app


@pytest.fixture(scope="module")
def door(place):
    password = Password.generate()
    return Door(password, Sessions(place.root / "sessions.json", password), Throttle(), 7860)


@pytest.fixture(scope="module")
def locked_app(place, door):
    return stand_in.built(place, door=door).app


def filled(rule, **words):
    return re.sub(r"\{(\w+)(?::path)?\}", lambda match: {**FILLED, **words}[match[1]], rule.path)


def ask(app, method, path, headers=None, body=None, base=HERE):
    """One request straight to the app; the path is sent as it is written. Of an event stream only the head is read."""
    return LOOP.run_until_complete(asyncio.wait_for(_asked(app, method, path, headers or {}, body or b"", base), 20))


async def _asked(app, method, path, headers, body, base):
    sent = [(name.lower().encode(), str(value).encode()) for name, value in headers.items()]
    if not any(name == b"host" for name, _ in sent):
        sent.append((b"host", base.removeprefix("http://").encode()))
    raw, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": sent,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 7860),
        "state": {},
    }
    parts, streams = [body], asyncio.Event()
    answer = {"status": 0, "headers": {}, "body": b""}

    async def receive():
        if parts:
            return {"type": "http.request", "body": parts.pop(0), "more_body": False}
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            answer["status"] = message["status"]
            answer["headers"] = {n.decode().lower(): v.decode("latin-1") for n, v in message["headers"]}
            if answer["headers"].get("content-type", "").startswith("text/event-stream"):
                streams.set()
        else:
            answer["body"] += message.get("body", b"")

    served, seen = (asyncio.ensure_future(one) for one in (app(scope, receive, send), streams.wait()))
    await asyncio.wait({served, seen}, return_when=asyncio.FIRST_COMPLETED)
    seen.cancel()
    if served.done():
        served.result()
    else:
        served.cancel()
        await asyncio.wait({served})
    return answer


def fine(answer):
    return 200 <= answer["status"] < 300


@pytest.mark.parametrize(("method", "rule"), CASES, ids=NAMES)
def test_without_login_only_the_login_is_there(locked_app, method, rule):
    found = ask(locked_app, method, filled(rule), {"origin": HERE}, b"")
    if rule.open:
        assert found["status"] in (200, 303, 403), found
    elif rule.page:
        assert (found["status"], found["headers"]["location"]) == (303, "/login")
    else:
        assert found["status"] == 401


@pytest.mark.parametrize("cookie", ["x", "", "a" * 43, "../../etc/passwd", '"', "é" * 43, "tuner", "null"])
def test_no_made_up_session_gets_in(locked_app, cookie):
    for method, rule in CASES:
        if not rule.open:
            headers = {"origin": HERE, "cookie": f"tuner-session-7860={cookie}"}
            assert ask(locked_app, method, filled(rule), headers)["status"] in (303, 401)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "0.0.0.0:7860",
        "127.0.0.2",
        "[::2]:7860",
        "127.0.0.1:99999",
        "127.0.0.1:7860:7860",
        "127.0.0.1 evil.example",
        "",
        ".",
        "2130706433",
        "0x7f.1",
    ],
)
def test_another_host_gets_nothing(open_app, host):
    for method, rule in CASES:
        found = ask(open_app, method, filled(rule), {"host": host, "origin": f"http://{host}"})
        assert found["status"] == 400, (host, rule.path)


def test_no_host_and_two_hosts_get_nothing(open_app):
    async def go(headers):
        said = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": headers,
            "query_string": b"",
            "scheme": "http",
        }
        await open_app(scope, None, lambda message: _keep(said, message))
        return said[0]["status"]

    async def _keep(said, message):
        said.append(message)

    assert LOOP.run_until_complete(go([])) == 400
    assert LOOP.run_until_complete(go([(b"host", b"127.0.0.1"), (b"host", b"127.0.0.1")])) == 400


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "localhost:8000", "localhost."]
)
def test_our_own_names_are_answered(open_app, host):
    assert ask(open_app, "GET", "/robots.txt", {"host": host})["status"] == 200


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {},
    {"origin": "http://127.0.0.1:9999"},
    {"origin": "http://127.0.0.1"},
    {"origin": "https://127.0.0.1"},
    {"origin": "http://127.0.0.1:7860.evil.example"},
    {"origin": "http://127.0.0.1:7860@evil.example"},
    {"origin": "http://evil.example/http://127.0.0.1:7860"},
    {"origin": "file://"},
    {"origin": "chrome-extension://abc"},
    {"origin": "http://localhost:7860"},
    {"origin": HERE, "sec-fetch-site": "cross-site"},
    {"origin": HERE, "sec-fetch-site": "same-site"},
    {"origin": HERE, "sec-fetch-site": "none"},
    {"referer": HERE + "/"},
    {"sec-fetch-site": "same-origin"},
]


@pytest.mark.parametrize(
    "headers", FOREIGN, ids=lambda headers: " ".join(f"{k}={v}" for k, v in headers.items()) or "none"
)
def test_another_origin_changes_nothing(open_app, headers):
    for method, rule in CASES:
        if method == "POST":
            for kind in ("application/json", "text/plain", "multipart/form-data; boundary=a"):
                found = ask(open_app, method, filled(rule), {**headers, "content-type": kind}, b"{}")
                assert found["status"] == 403, rule.path
                assert not any(name.startswith("access-control") for name in found["headers"])


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense", ""])
def test_another_site_reads_nothing_but_may_link_to_the_page(open_app, site):
    for method, rule in CASES:
        if method == "GET":
            embedded = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
            assert ask(open_app, method, filled(rule), embedded)["status"] == 403, rule.path
            framed = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
            assert ask(open_app, method, filled(rule), framed)["status"] == 403, rule.path
            followed = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
            assert (ask(open_app, method, filled(rule), followed)["status"] != 403) == rule.page, rule.path


def test_nothing_allows_another_origin_to_read(open_app):
    for method, rule in CASES:
        if method != "POST":
            found = ask(open_app, method, filled(rule), {"origin": "http://evil.example"})
            assert not any(name.startswith("access-control") for name in found["headers"]), rule.path
    preflight = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert ask(open_app, "OPTIONS", "/gradio_api/queue/join", preflight)["status"] == 404


@pytest.mark.parametrize("attack", TRAVERSALS, ids=lambda attack: attack[:40])
def test_no_path_leads_out(open_app, attack):
    for method, rule in CASES:
        for parameter in re.findall(r"\{(\w+)", rule.path):
            path = filled(rule, **{parameter: attack})
            headers = {"origin": HERE} if method == "POST" else {}
            if "queue" in path or "heartbeat" in path:
                continue  # names of sessions: they lead to no file
            found = ask(open_app, method, path, headers, b"x" if method == "POST" else b"")
            assert 400 <= found["status"] < 500, (path, found)
            assert b"root:" not in found["body"]
            assert b"secret" not in found["body"]
            assert "x-injected" not in found["headers"]


@pytest.mark.parametrize(
    "path", ["/%2e%2e/", "/./", "//", "/assets/../", "/assets//x.js", "/\\", "/%00", "/ ", "/*", "/config"]
)
def test_no_other_path_is_there(open_app, path):
    assert ask(open_app, "GET", path)["status"] == 404


@pytest.mark.parametrize(("method", "rule"), CASES, ids=NAMES)
def test_too_much_is_refused_whether_announced_or_not(open_app, method, rule):
    headers = {"origin": HERE}
    announced = ask(open_app, method, filled(rule), {**headers, "content-length": rule.body + 1})
    assert announced["status"] == 413
    assert ask(open_app, method, filled(rule), {**headers, "content-length": "-1"})["status"] == 400
    assert ask(open_app, method, filled(rule), {**headers, "content-length": "9" * 30})["status"] == 413
    if 0 < rule.body < 1 << 22:
        unannounced = ask(open_app, method, filled(rule), headers, b"x" * (rule.body + 1))
        assert unannounced["status"] == (303 if rule.open else 413)  # without a login nobody reads its form


def test_long_heads_are_refused(open_app):
    assert ask(open_app, "GET", "/" + "a" * 3000)["status"] == 414
    assert ask(open_app, "GET", "/?" + "a" * 5000)["status"] == 414
    assert ask(open_app, "GET", "/", {"x-long": "a" * 20000})["status"] == 431
    assert ask(open_app, "GET", "/", {f"x-{i}": "a" for i in range(100)})["status"] == 431


def test_websockets_are_refused(open_app):
    async def go():
        said = []

        async def send(message):
            said.append(message)

        await open_app({"type": "websocket", "path": "/", "headers": [(b"host", b"127.0.0.1")]}, None, send)
        return said

    assert LOOP.run_until_complete(go()) == [{"type": "websocket.close", "code": 1008}]


WANTED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def test_every_answer_carries_the_headers(open_app, locked_app):
    asked = [(method, filled(rule), {"origin": HERE}) for method, rule in CASES]
    asked += [
        ("GET", "/nothing", {}),
        ("GET", "/", {"host": "evil.example"}),
        ("POST", "/upload/x", {}),
        ("PUT", "/", {}),
    ]
    for app in (open_app, locked_app):
        for method, path, headers in asked:
            found = ask(app, method, path, headers)
            for name, wanted in WANTED.items():
                assert found["headers"].get(name) == wanted, (method, path, name)
            if method != "HEAD" or path != "/":
                assert "frame-ancestors 'none'" in found["headers"]["content-security-policy"], (method, path)
            assert "server" not in found["headers"]
            assert "x-powered-by" not in found["headers"]
            assert "cache-control" in found["headers"]
            assert "permissions-policy" in found["headers"]


def test_the_policy_names_no_other_host_and_only_our_scripts(open_app):
    policy = ask(open_app, "GET", "/")["headers"]["content-security-policy"]
    parts = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert parts["default-src"] == ["'none'"]
    assert all(re.fullmatch(r"'self'|'unsafe-eval'|'sha256-[\w+/]+='", source) for source in parts["script-src"])
    assert not re.search(r"https?:|\*|ws:", policy)


def test_a_script_that_someone_got_into_the_page_has_no_leave():
    from webui.guard.policy import OwnScripts, inline

    template = "<script>window.a = {{ config | toorjson }};</script><script data-mode>go();</script>"
    own = OwnScripts(template, "<script>head()</script>")
    page = '<script>window.a = {"b": "c"};</script><script data-mode>go();</script><script>evil()</script>'
    assert inline(page)[-1] == "evil()"
    assert own.of(page) == ['window.a = {"b": "c"};', "go();", "head()"]
    assert own.of("<script>window.a = 1;</script><script>window.a = <b>;</script>") == ["window.a = 1;", "head()"]


def test_forwarded_headers_change_nothing(open_app):
    plain = ask(open_app, "GET", "/")["body"]
    forged = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "x-forwarded-prefix": "/evil"}
    assert ask(open_app, "GET", "/", forged)["body"] == plain
    assert b"evil" not in plain


def test_an_address_of_ones_own_counts_where_that_is_said():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def status(guard, host, server):
        said = []

        async def send(message):
            said.append(message)

        scope = {"type": "http", "headers": [(b"host", host.encode())], "server": server}
        LOOP.run_until_complete(guard(scope, None, send))
        return said[0]["status"]

    own, strict = (TrustedHosts(app, LOOPBACK | {"gpu.lan:81"}, own_address=own) for own in (True, False))
    assert status(own, "192.0.2.7:7860", ("192.0.2.7", 7860)) == 200
    assert status(own, "192.0.2.7", ("::ffff:192.0.2.7", 7860)) == 200
    assert status(own, "[2001:db8::1]:7860", ("2001:db8:0::1", 7860)) == 200
    assert status(own, "192.0.2.8", ("192.0.2.7", 7860)) == 400
    assert status(own, "evil.example", ("192.0.2.7", 7860)) == 400
    assert status(strict, "192.0.2.7", ("192.0.2.7", 7860)) == 400
    assert status(strict, "gpu.lan:81", ("192.0.2.7", 7860)) == 200
    assert status(strict, "gpu.lan:82", ("192.0.2.7", 7860)) == 400


def test_behind_a_proxy_that_adds_encryption_the_origin_is_ours():
    assert is_own("https://gpu.example", Host("gpu.example", None))
    assert is_own("https://gpu.example", Host("gpu.example", 443))
    assert is_own("http://gpu.example", Host("gpu.example", None))
    assert not is_own("https://gpu.example:8443", Host("gpu.example", None))
    assert not is_own("https://other.example", Host("gpu.example", None))


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.1.2.3", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.2", False),
        ("gpu.lan", False),
        ("", False),
        ("localhost.evil.example", False),
    ],
)
def test_which_addresses_are_this_machine_alone(host, alone):
    assert is_loopback(host) is alone


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[" * 100000,
        b'{"a":' * 50000,
        b"\xff\xfe",
        b"null",
        b"1e999",
        b'{"fn_index": -1, "data": [], "session_hash": "a"}',
        b'{"fn_index": 99, "data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "session_hash": "a"}',
    ],
    ids=range(8),
)
def test_nonsense_for_the_queue_is_refused(open_app, body):
    with TestClient(open_app, base_url=HERE, raise_server_exceptions=False) as client:
        answer = client.post(
            "/gradio_api/queue/join", content=body, headers={"origin": HERE, "content-type": "application/json"}
        )
    assert 400 <= answer.status_code <= 500  # what Gradio itself did not expect is a 500 that tells nothing
    assert len(answer.content) < 500
    assert b"root:" not in answer.content
