"""The pages on a phone: every screen fits, light and dark, and what is needed on the way can be read and tapped."""

from __future__ import annotations

import pytest
from browsing import SCREENS, Server, chromium, furnished, opened, portrait, visiting

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(600)]

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
SMALLEST_TEXT, LOWEST_BUTTON = 12, 32
"""CSS pixels."""

_CUT = """
() => {
  const bad = [];
  const scrolls = (one) => one && (/(auto|scroll)/.test(getComputedStyle(one).overflowX) || scrolls(one.parentElement));
  for (const one of document.querySelectorAll('.t *, button, label, input, textarea')) {
    const box = one.getBoundingClientRect();
    if (box.width && box.height && one.checkVisibility({opacityProperty: true, visibilityProperty: true}) &&
        (box.right > innerWidth + 1 || box.left < -1) && !scrolls(one.parentElement) && !one.closest('svg'))
      bad.push(one.outerHTML.slice(0, 150) + ' ' + Math.round(box.left) + '..' + Math.round(box.right));
  }
  return bad;
}
"""
_SMALL = """
(least) => {
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || !one.checkVisibility({visibilityProperty: true}) || !one.getClientRects().length) continue;
    const box = one.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;  // for readers of the screen alone
    const size = parseFloat(getComputedStyle(one).fontSize);
    if (size < least) bad.push(size + ' ' + text.slice(0, 60));
  }
  return bad;
}
"""
_LOW = """
(least) => [...document.querySelectorAll('button, a.button, summary, select, [role=tab]')]
  .filter((one) => !one.matches('.icon-button, .reset-button'))  // Gradio's own extras, needed by nobody
  .filter((one) => one.checkVisibility({visibilityProperty: true}) && one.getClientRects().length)
  .map((one) => [one.getBoundingClientRect(), one])
  .filter(([box, one]) => box.width > 1 && (box.height < least - .5 || box.width < least - .5))
  .map(([box, one]) => Math.round(box.width) + ' x ' + Math.round(box.height) + ' ' + one.outerHTML.slice(0, 150))
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    workspace = furnished(tmp_path_factory.mktemp("phone") / "work", tmp_path_factory)
    with Server(workspace.root, tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_fits(browser, server, scheme):
    with visiting(browser, server, "?run=mushroom", color_scheme=scheme, **PHONE) as seen:
        found = {}
        for screen in SCREENS:
            opened(seen, screen)
            for summary in seen.page.locator("summary:visible").all():
                summary.click()
            found[screen] = [
                *([f"it is {seen.overflow()} px too wide"] if seen.overflow() > 0 else []),
                *seen.page.evaluate(_CUT),
                *seen.page.evaluate(_SMALL, SMALLEST_TEXT),
                *seen.page.evaluate(_LOW, LOWEST_BUTTON),
            ]
            portrait(seen, f"phone-{scheme}-{screen.lower().replace(' ', '-')}")
        assert not any(found.values()), found
        assert seen.page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")


def test_a_run_that_goes_on(browser, server):
    """Its buttons are there and work under a finger; its samples scroll inside themselves."""
    with visiting(browser, server, "?run=going-on", **PHONE) as seen:
        seen.until(lambda: seen.state() == "training")
        for name in ("stop", "stop-now", "save", "sample"):
            box = seen.page.locator(f"#do-{name}").bounding_box()
            assert box is not None
            assert box["height"] >= LOWEST_BUTTON
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert seen.page.evaluate(_LOW, LOWEST_BUTTON) == []
        matrix = seen.page.locator("#samples .matrix")
        inside, whole = matrix.evaluate("(one) => [one.clientWidth, one.scrollWidth]")
        assert inside < 390 < whole
        matrix.evaluate("(one) => one.scrollTo(1000, 0)")
        last = seen.page.locator("#samples tbody tr").first.locator("img").last
        last.scroll_into_view_if_needed()
        box = last.bounding_box()
        assert box is not None
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        last.tap()
        seen.page.locator("#lightbox img").wait_for()
        seen.page.locator("#lightbox").tap()
        seen.page.locator("#lightbox").wait_for(state="hidden")
        seen.page.locator("#do-save").tap()
        asked = server.workspace / "runs/going-on/control"
        seen.until(lambda: any('"save"' in file.read_text() for file in asked.glob("*.json")))


def test_a_result_is_taken_home(browser, server):
    with visiting(browser, server, "?run=mushroom", **PHONE) as seen:
        opened(seen, "Results")
        seen.page.locator("#results [data-do=choose]").first.tap()
        seen.until(lambda: "Download" in seen.page.locator("#results").inner_text())
        with seen.page.expect_download() as arriving:
            seen.page.locator("#results a[data-file]").first.tap()
        assert arriving.value.suggested_filename.endswith(".safetensors")
