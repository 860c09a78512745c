"""The login: who knows the password gets a session, others get slower answers and nothing else."""

from __future__ import annotations

import json
import re
import stat
import statistics
import time

import pytest
import stand_in
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tuner.errors import StorageError, UsageError
from webui.guard.login import Door, _target
from webui.guard.passwords import Password
from webui.guard.sessions import IDLE_S, LIFE_S, MOST, Sessions
from webui.guard.throttle import FREE, TOGETHER, WITHIN_S, Throttle, network
from webui.workspace import Workspace

HERE = "http://127.0.0.1:7860"
ORIGIN = {"origin": HERE}


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """One app for the module; each test gets a fresh door in it."""
    workspace = Workspace.open(tmp_path_factory.mktemp("login"))
    password = Password.generate()
    door = Door(password, Sessions(workspace.root / "first.json", password), Throttle(), 7860)
    return stand_in.built(workspace, door=door).app, door


@pytest.fixture
def door(parts, tmp_path, clock):
    _, door = parts
    door.sessions = Sessions(tmp_path / "sessions.json", door.password, clock)
    door.throttle = Throttle(clock)
    return door


@pytest.fixture
def client(parts, door):
    return TestClient(parts[0], base_url=HERE, follow_redirects=False)


def enter(client, password, **more):
    return client.post("/login", data={"password": password, **more}, headers=ORIGIN)


def test_the_way_in_and_out(client, door):
    assert client.get("/").headers["location"] == "/login"
    page = client.get("/login")
    assert page.status_code == 200
    assert "<form" in page.text
    assert "<script" not in page.text
    assert door.password.text not in page.text
    inside = enter(client, door.password.text)
    assert (inside.status_code, inside.headers["location"]) == (303, "/")
    assert client.get("/").status_code == 200
    assert client.get("/login").headers["location"] == "/"
    token = client.cookies["tuner-session-7860"]
    outside = client.post("/logout", headers=ORIGIN)
    assert outside.headers["location"] == "/login"
    assert client.get("/").status_code == 303
    assert client.get("/", headers={"cookie": f"tuner-session-7860={token}"}).status_code == 303


def test_the_cookie_is_for_this_server_alone(client, door):
    said = enter(client, door.password.text).headers["set-cookie"]
    name, value = said.split(";")[0].split("=")
    flags = {part.strip().lower() for part in said.split(";")[1:]}
    assert name == "tuner-session-7860"
    assert re.fullmatch(r"[\w-]{43}", value)
    assert {"httponly", "samesite=strict", "path=/"} <= flags
    assert "secure" not in flags
    assert not any(flag.startswith("domain") for flag in flags)


def test_the_cookie_is_secure_where_the_browser_sees_https(client, door):
    said = client.post(
        "/login", data={"password": door.password.text}, headers={"origin": "https://localhost", "host": "localhost"}
    )
    assert "secure" in said.headers["set-cookie"].lower()


WRONG = ["", " ", "x", "password", "a" * 256, "a" * 100_000, "\x00", "ü", "' OR 1=1 --", "{{7*7}}", "\ud800"]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_nothing_but_the_password_gets_in(client, wrong):
    data = "password=" + "".join(f"%{byte:02x}" for byte in wrong.encode("utf-8", "surrogatepass"))
    found = client.post("/login", content=data, headers={**ORIGIN, "content-type": "application/x-www-form-urlencoded"})
    assert found.status_code in (403, 413)
    assert "set-cookie" not in found.headers
    assert client.get("/").status_code == 303


def test_near_misses_stay_out(door):
    right = door.password.text
    assert door.password.matches(right)
    for wrong in (right[:-1], right + "a", right.upper(), right.replace("-", ""), " " + right, right[::-1]):
        assert not door.password.matches(wrong)


def test_comparing_takes_as_long_whatever_is_wrong(door):
    right = door.password.text

    def seconds(given):
        began = time.perf_counter()
        for _ in range(300):
            door.password.matches(given)
        return time.perf_counter() - began

    early, late = (statistics.median(seconds(one) for _ in range(9)) for one in ("#" + right[1:], right[:-1] + "#"))
    assert 0.5 < early / late < 2  # a comparison that stops at the first difference is told apart by far less code


def test_mistakes_cost_time_and_the_page_says_how_much(client, door, clock):
    for _ in range(FREE):
        assert enter(client, "wrong").status_code == 403
    refused = enter(client, door.password.text)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "Wait a second" in refused.text
    assert "set-cookie" not in refused.headers
    clock.now += 1
    assert enter(client, door.password.text).status_code == 303
    assert enter(client, "wrong").status_code == 403  # and the mistakes are forgotten


def test_each_further_mistake_costs_twice_as_much(clock):
    throttle, waited = Throttle(clock), []
    for _ in range(FREE + 10):
        pause = throttle.wait_s("192.0.2.1")
        waited.append(pause)
        clock.now += pause
        if pause:
            assert throttle.wait_s("192.0.2.1") == 0
    pauses = [pause for pause in waited if pause]
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert max(pauses) == 300


def test_another_address_does_not_wait_for_the_first(clock):
    throttle = Throttle(clock)
    for _ in range(FREE):
        assert throttle.wait_s("192.0.2.1") == 0
    assert throttle.wait_s("192.0.2.1") > 0
    assert throttle.wait_s("192.0.2.2") == 0


def test_many_addresses_together_are_slowed_too(clock):
    throttle = Throttle(clock)
    let_in = sum(throttle.wait_s(f"198.51.100.{i}") == 0 for i in range(250))
    assert let_in == TOGETHER
    clock.now += WITHIN_S
    assert throttle.wait_s("203.0.113.9") == 0


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 30)), max_size=400))
def test_in_no_minute_more_tries_than_the_limit_are_let_in(tries):
    clock = Clock()
    throttle, let_in = Throttle(clock), []
    for who, pause in tries:
        clock.now += pause
        if throttle.wait_s(f"10.0.{who // 256}.{who % 256}") == 0:
            let_in.append(clock.now)
    for i, moment in enumerate(let_in):
        assert sum(1 for other in let_in[i:] if other - moment < WITHIN_S) <= TOGETHER


def test_one_household_is_one_address():
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9") != network("2001:db8:1:3::1")
    assert network("::ffff:192.0.2.1") == "192.0.2.1"
    assert network("fe80::1%eth0") == network("fe80::2")


def test_the_memory_of_addresses_ends(clock):
    throttle = Throttle(clock)
    for i in range(6000):
        clock.now += 2
        throttle.wait_s(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}")
    assert len(throttle.mistakes) == 4096


def test_sessions_outlive_a_restart_and_are_kept_as_hashes(tmp_path, clock):
    file, password = tmp_path / "sessions.json", Password("correct horse battery", generated=False)
    token = Sessions(file, password, clock).begin()
    assert token not in file.read_text()
    assert password.text not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = Sessions(file, Password("correct horse battery", generated=False), clock)
    assert again.knows(token)
    assert not again.knows(token[:-1])
    assert not Sessions(file, Password("another password", generated=False), clock).knows(token)
    assert not Sessions(file, Password.generate(), clock).knows(token)


def test_sessions_of_a_generated_password_outlive_a_restart_too(tmp_path, clock):
    file = tmp_path / "sessions.json"
    token = Sessions(file, Password.generate(), clock).begin()
    assert Sessions(file, Password.generate(), clock).knows(token)
    assert not Sessions(file, Password("correct horse battery", generated=False), clock).knows(token)


def test_sessions_end(tmp_path, clock):
    sessions = Sessions(tmp_path / "sessions.json", Password.generate(), clock)
    idle, busy = sessions.begin(), sessions.begin()
    began = clock.now
    while clock.now < began + LIFE_S - IDLE_S / 2:
        clock.now += IDLE_S / 2
        assert sessions.knows(busy)
    assert not sessions.knows(idle)
    clock.now = began + LIFE_S
    assert not sessions.knows(busy)
    clock.now = began - 10  # a clock that was set back makes nobody young again
    assert not sessions.knows(idle)


def test_only_so_many_sessions_are_kept(tmp_path, clock):
    sessions = Sessions(tmp_path / "sessions.json", Password.generate(), clock)
    tokens = []
    for _ in range(MOST + 3):
        clock.now += 1
        tokens.append(sessions.begin())
    assert [sessions.knows(token) for token in tokens[:4]] == [False, False, False, True]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"sessions": 3}',
        '{"sessions": {"a": [1]}}',
        '{"sessions": {"a": ["x", "y"]}, "salt": 4}',
        "\x00" * 50,
        '{"sessions": {"a": [NaN, Infinity]}, "password": ""}',
    ],
    ids=range(9),
)
def test_a_damaged_file_of_sessions_lets_nobody_in_and_is_replaced(tmp_path, clock, text):
    file = tmp_path / "sessions.json"
    file.write_text(text)
    sessions = Sessions(file, Password.generate(), clock)
    assert not sessions.knows("a")
    token = sessions.begin()
    assert sessions.knows(token)
    assert json.loads(file.read_text())["sessions"]


def test_a_full_disk_keeps_no_known_visitor_out(tmp_path, clock, monkeypatch):
    from tuner import atomic

    sessions = Sessions(tmp_path / "sessions.json", Password.generate(), clock)
    token = sessions.begin()

    def full(*_, **__):
        raise StorageError("no space")

    monkeypatch.setattr(atomic, "write", full)
    clock.now += 3600
    assert sessions.knows(token)
    with pytest.raises(StorageError):
        sessions.begin()


def test_a_login_gives_a_new_session_and_ends_the_old(client, door):
    enter(client, door.password.text)
    first = client.cookies["tuner-session-7860"]
    client.post("/login", data={"password": door.password.text}, headers=ORIGIN)
    second = client.cookies["tuner-session-7860"]
    assert first != second
    assert not door.sessions.knows(first)


@pytest.mark.parametrize(
    ("back", "target"),
    [
        ("run=dog-1", "/?run=dog-1"),
        ("", "/"),
        ("//evil.example", "/"),
        ("https://evil.example/", "/"),
        ("run=//evil.example", "/?run=%2F%2Fevil.example"),
        ("a=b\r\nSet-Cookie: x=y", "/?a=b%0D%0ASet-Cookie%3A+x%3Dy"),
        ("a=" + "b" * 400, "/"),
    ],
)
def test_the_way_back_never_leads_elsewhere(back, target):
    assert _target(back) == target


def test_a_link_to_a_run_survives_the_login(client, door):
    asked = client.get("/?run=dog%201")
    form = client.get(asked.headers["location"])
    back = re.search(r'name="back" value="([^"]*)"', form.text)[1]
    assert enter(client, door.password.text, back=back).headers["location"] == "/?run=dog+1"


def test_what_is_written_into_the_form_stays_text(client):
    page = client.get("/login", params={"back": '"><script>alert(1)</script>'})
    assert "<script" not in page.text
    assert "&lt;script" in page.text


def test_a_password_file_is_read_strictly(tmp_path):
    file = tmp_path / "password"
    file.write_text("correct horse battery\nnotes\n")
    file.chmod(0o600)
    assert Password.read(file).text == "correct horse battery"
    assert "correct" not in repr(Password.read(file))
    file.chmod(0o644)
    with pytest.raises(UsageError, match="read by other users"):
        Password.read(file)
    file.chmod(0o600)
    for text in ("short", "", "\n", "a" * 5000):
        file.write_text(text)
        with pytest.raises(UsageError, match="12 to 256"):
            Password.read(file)
    with pytest.raises(StorageError):
        Password.read(tmp_path / "none")


def test_generated_passwords_differ_and_are_long():
    made = {Password.generate().text for _ in range(50)}
    assert len(made) == 50
    assert all(re.fullmatch(r"(?:[a-z2-9]{5}-){3}[a-z2-9]{5}", one) for one in made)
