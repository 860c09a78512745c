"""A real browser under the policy: the page works, nothing is fetched from elsewhere, and no attack runs."""

from __future__ import annotations

import re

import pytest
import stand_in

from webui.guard.login import Door
from webui.guard.passwords import Password
from webui.guard.sessions import Sessions
from webui.guard.throttle import Throttle
from webui.workspace import Workspace

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser():
    with stand_in.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace.open(tmp_path_factory.mktemp("browser"))


class Watched:
    """A page, with all that it complained of and asked for."""

    def __init__(self, browser, **words):
        self.context = browser.new_context(**words)
        self.page = self.context.new_page()
        self.complaints, self.asked, self.refused = [], [], []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("response", lambda r: self.refused.append((r.status, r.url)) if r.status >= 400 else None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


def test_the_page_works_under_the_policy(browser, workspace):
    with stand_in.running(stand_in.built(workspace)) as url, Watched(browser) as seen:
        page = seen.page
        page.goto(url)
        page.get_by_label("Name").fill("abc")
        page.get_by_role("button", name="Greet").click()
        page.get_by_text("hello 3").wait_for()
        page.locator("#own button").click()
        page.get_by_text("pressed").wait_for()
        page.wait_for_function("+document.querySelector('#ticks')?.innerText >= 2")
        page.get_by_role("tab", name="Two").click()
        page.locator(".cm-content").wait_for()
        page.get_by_label("Check").check()
        assert page.evaluate("window.ownHead") == "ran", "the head's own script did not run"
        assert all(address.startswith((url, "data:")) for address in seen.asked)
        assert not seen.complaints
        assert not seen.refused


ATTACKS = [
    "<img src=x onerror='window.attacked=1'>",
    "<svg onload='window.attacked=1'></svg>",
    "<a href='javascript:window.attacked=1' id=bait>bait</a>",
    "<iframe srcdoc='<script>parent.attacked=1</script>'></iframe>",
    "<details open ontoggle='window.attacked=1'><summary>a</summary></details>",
    "<object data='data:text/html,<script>parent.attacked=1</script>'></object>",
    "<img src='https://evil.example/beacon.png'>",
    "<form action='https://evil.example/'><button id=bait>bait</button></form>",
    "<base href='https://evil.example/'>",
    "<link rel=stylesheet href='https://evil.example/a.css'>",
    "<video src='https://evil.example/a.mp4' autoplay></video>",
]


def test_markup_that_got_through_everything_else_runs_nothing_and_fetches_nothing(browser, workspace):
    with stand_in.running(stand_in.built(workspace)) as url, Watched(browser) as seen:
        seen.page.goto(url)
        seen.page.locator("#said").wait_for()
        seen.page.evaluate("() => { const b = document.createElement('div'); b.id = 'bed'; document.body.append(b) }")
        seen.context.route("https://evil.example/**", lambda route: route.abort())
        for attack in ATTACKS:
            seen.page.evaluate("markup => { document.querySelector('#bed').innerHTML = markup }", attack)
            if "bait" in attack:
                seen.page.locator("#bait").click(timeout=2000, no_wait_after=True)
            seen.page.wait_for_timeout(100)
            assert seen.page.evaluate("window.attacked") is None, attack
        assert seen.page.url.startswith(url), "the page was led elsewhere"
        answered = [response for response in seen.refused if "evil" in response[1]]
        assert not answered
        for script in (
            "const s = document.createElement('script'); s.textContent = 'window.attacked = 1'; document.head.append(s)",
            "const s = document.createElement('script'); s.src = 'https://evil.example/a.js'; document.head.append(s)",
        ):
            seen.page.evaluate(f"() => {{ {script} }}")
        assert seen.page.evaluate("window.attacked") is None


def test_logging_in_by_hand_without_a_script(browser, workspace):
    password = Password.generate()
    door = Door(password, Sessions(workspace.root / "sessions.json", password), Throttle(), 7860)
    with (
        stand_in.running(stand_in.built(workspace, door=door)) as url,
        Watched(browser, viewport={"width": 390, "height": 760}, java_script_enabled=False) as seen,
    ):
        page = seen.page
        page.goto(url + "/?run=dog-1")
        assert "/login" in page.url
        page.get_by_label("Password").fill("not it at all")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").wait_for()
        assert page.locator("html").bounding_box()["width"] <= 390
        page.get_by_label("Password").fill(password.text)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(re.compile(r"/(\?run=dog-1)?$"))
        cookie = seen.context.cookies()[0]
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert not [text for text in seen.complaints if "403" not in text]
    with (
        stand_in.running(stand_in.built(workspace, door=door)) as url,
        Watched(browser, storage_state={"cookies": [cookie], "origins": []}) as seen,
    ):
        seen.page.goto(url)
        seen.page.wait_for_function("+document.querySelector('#ticks')?.innerText >= 1")
        assert not seen.complaints
        seen.page.evaluate(
            "() => { const f = document.createElement('form'); f.method = 'post'; f.action = '/logout'; document.body.append(f); f.submit() }"
        )
        seen.page.get_by_role("button", name="Log in").wait_for()
        seen.page.goto(url)
        assert seen.page.url.endswith("/login")


def test_the_page_comes_back_when_the_server_does(browser, workspace):
    with Watched(browser) as seen:
        with stand_in.running(stand_in.built(workspace)) as url:
            seen.page.goto(url)
            seen.page.wait_for_function("+document.querySelector('#ticks')?.innerText >= 1")
            seen.page.evaluate("window.before = true")
        with stand_in.running(stand_in.built(workspace), int(url.rsplit(":", 1)[1])):
            seen.page.wait_for_function(
                "!window.before && +document.querySelector('#ticks')?.innerText >= 1", timeout=15000
            )
            assert not seen.refused
