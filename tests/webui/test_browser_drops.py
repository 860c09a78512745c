"""Files that are dropped, sent and refused, as the page tells it; and pictures that are enlarged by keys."""

from __future__ import annotations

import numpy as np
import pytest
from browsing import Server, chromium, visiting
from PIL import Image

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(600)]

DROP = """
({tree, where}) => {
  const entry = (one, above) => {
    const fullPath = `${above}/${one.name}`;
    const fail = (no) => no(new DOMException('x', 'NotReadableError'));
    if (!one.inner) {
      const file = (ok, no) => (one.bad ? fail(no) : ok(new File(['no picture'], one.name)));
      return {isFile: true, fullPath, file};
    }
    const parts = [one.inner.map((inner) => entry(inner, fullPath)), one.bad ? null : []];
    const readEntries = (ok, no) => { const part = parts.shift(); part ? ok(part) : fail(no); };
    return {isFile: false, fullPath, createReader: () => ({readEntries})};
  };
  const event = new Event('drop', {bubbles: true, cancelable: true});
  const items = tree.map((one) => ({webkitGetAsEntry: () => entry(one, '')}));
  event.dataTransfer = {types: ['Files'], files: [], items};
  document.querySelector(where).dispatchEvent(event);
  return event.defaultPrevented;
}
"""
"""A drop of files and folders, some of which cannot be read; gives whether the browser was kept from opening them."""
LEAVING = """
() => {
  const event = new Event('beforeunload', {cancelable: true});
  dispatchEvent(event);
  return event.defaultPrevented;
}
"""
GRID = "document.querySelector('#grid .photos')"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("drops") / "work", tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for name, width in (("a.png", 40), ("b.png", 40), ("holiday.png", 2200)):
        Image.fromarray(rng.integers(0, 255, (width, width, 3), dtype="uint8")).save(tmp_path / name)
    (tmp_path / "broken.png").write_text("no picture")
    return sorted(tmp_path.iterdir())


def said(seen) -> str:
    return seen.page.locator("#drop .drop-said").inner_text()


def drop(seen, *tree, where: str = "#drop .drop") -> bool:
    return seen.page.evaluate(DROP, {"tree": list(tree), "where": where})


def begun(seen, name: str) -> None:
    """A new set, chosen and empty."""
    seen.field("set-name").fill(name)
    seen.page.locator("#new-set").click()
    seen.until(lambda: name in seen.field("dataset").input_value())
    seen.page.locator("#drop .drop[data-upload]").wait_for()


def test_what_is_dropped_is_told_of(browser, server, files):
    with visiting(browser, server) as seen:
        page = seen.page
        seen.tab("Photos")
        page.locator("#drop .empty").wait_for()
        assert drop(seen, {"name": "a.png"}, where="body"), "the browser would have left the page"
        drop(seen, {"name": "a.png"}, where="#drop .empty")
        page.get_by_text("There is no set of photos").wait_for()
        begun(seen, "dogs")
        assert said(seen) == ""

        slow = seen.context.new_cdp_session(page)
        slow.send("Network.enable")
        limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 3e6}
        slow.send("Network.emulateNetworkConditions", limits)
        assert not page.evaluate(LEAVING)
        page.locator("#drop input[type=file]").set_input_files(files)
        page.wait_for_function("/Sending holiday.png: [1-9]/.test(document.querySelector('.drop-said').innerText)")
        assert page.evaluate(LEAVING)
        page.get_by_text("3 taken, 1 refused: see below why").wait_for()
        assert not page.evaluate(LEAVING)
        slow.send("Network.emulateNetworkConditions", {**limits, "uploadThroughput": -1})
        page.locator("#grid .photo").nth(2).wait_for()

        # one file that cannot be read takes no other with it, and a caption that is being written stays under way
        page.locator("#grid textarea").nth(1).focus()
        page.keyboard.type("a dog on the be")
        page.evaluate(f"window.kept = [document.activeElement, {GRID}]")
        page.locator("#grid [role=alert] li").first.wait_for()
        inner = [{"name": "gone<b>.png", "bad": True}, {"name": "bad.png"}]
        drop(seen, {"name": "dir", "inner": inner}, {"name": "half", "bad": True, "inner": [{"name": "other.png"}]})
        page.locator("#grid [role=alert] li").nth(2).wait_for()
        page.keyboard.type("ach")
        assert page.evaluate(f"kept[0] === document.activeElement && kept[1] === {GRID}")
        assert page.evaluate("kept[0].value") == "a dog on the beach"
        told = said(seen)
        assert "2 refused: see below why, 2 did not get through:" in told
        assert "dir/gone<b>.png: the browser cannot read it" in told
        assert "half: the browser cannot read it" in told
        page.locator("[data-do=clear-refused]").click()
        page.locator("#grid [role=alert]").wait_for(state="detached")
        assert page.evaluate(f"kept[1] === {GRID}")
        assert said(seen) == told


def test_what_the_server_knows_nothing_of_is_named(browser, server, files):
    with visiting(browser, server) as seen:
        page = seen.page
        seen.tab("Photos")
        begun(seen, "cats")
        full = {"status": 503, "content_type": "text/plain; charset=utf-8", "body": "too many <b>at once</b>\n"}
        for answer, reason in (
            (lambda route: route.fulfill(**full), "too many <b>at once</b>"),
            (
                lambda route: route.fulfill(status=200, content_type="text/html", body="<b>log in</b>"),
                "no verdict (200)",
            ),
            (lambda route: route.abort(), "it did not arrive"),
        ):
            page.route("**/upload/**", answer)
            page.locator("#drop input[type=file]").set_input_files(files[0])
            seen.until(lambda reason=reason: reason in said(seen))
            assert said(seen).startswith("0 taken, 1 did not get through:\na.png: ")
            page.unroute("**/upload/**")
        seen.complaints.clear()  # the browser's own, of those answers


def test_pictures_are_enlarged_by_keys(browser, server, files):
    with visiting(browser, server) as seen:
        page = seen.page
        seen.tab("Photos")
        begun(seen, "birds")
        page.locator("#drop input[type=file]").set_input_files(files[:2])
        picture = page.get_by_role("button", name="Enlarge b.png", exact=True)
        for key, closing in (("Enter", "Escape"), ("Space", "Enter")):
            picture.focus()
            page.keyboard.press(key)
            page.locator("#lightbox[open] img[alt='b.png']").wait_for()
            assert page.evaluate("document.activeElement.ariaLabel") == "Close"
            page.keyboard.press(closing)
            page.locator("#lightbox[open]").wait_for(state="detached")
            assert page.evaluate("document.activeElement.alt") == "b.png"
