"""Every screen for those who use no mouse or see no colours: names, roles, keys and contrast."""

from __future__ import annotations

import pytest
from browsing import SCREENS, Server, chromium, furnished, opened, portrait, visiting

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(600)]

CONTRAST = 4.5
"""WCAG 2.2, 1.4.3, level AA for text."""

_NAMELESS = """
() => {
  const bad = [];
  const seen = (one) => one.checkVisibility({visibilityProperty: true}) && one.getClientRects().length;
  const text = (id) => (document.getElementById(id) || {innerText: ''}).innerText;
  for (const one of document.querySelectorAll(
      'button, a[href], input, textarea, select, [role=tab], [role=button], [role=region], [role=progressbar], svg[role=img]')) {
    if (!seen(one) || one.type === 'hidden' || one.closest('[aria-hidden=true]')) continue;
    const labels = [...(one.labels || [])].map((label) => label.innerText).join(' ');
    const by = (one.getAttribute('aria-labelledby') || '').split(/\\s+/).map(text).join(' ');
    const own = ['BUTTON', 'A'].includes(one.tagName) || one.getAttribute('role') === 'tab' ? one.innerText : '';
    const drawn = one.tagName === 'svg' ? (one.querySelector('title') || {textContent: ''}).textContent : '';
    const inner = [...one.querySelectorAll('img[alt]')].map((picture) => picture.alt).join(' ');
    const name = [one.ariaLabel, by, labels, own, drawn, inner, one.title].map((said) => (said || '').trim()).join('');
    if (!name) bad.push('no name: ' + one.outerHTML.slice(0, 200));
  }
  for (const one of document.querySelectorAll('img'))
    if (seen(one) && !(one.alt || '').trim()) bad.push('no alt: ' + one.outerHTML.slice(0, 200));
  return bad;
}
"""
_PALE = """
(least) => {
  const bad = new Set();
  const parse = (colour) => {
    const found = colour.match(/[\\d.]+%?/g);
    if (!found) return [0, 0, 0, 0];
    const [r, g, b, a = 1] = found.map(Number);
    return colour.startsWith('color(srgb') ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const over = (top, below) => [0, 1, 2].map((n) => top[n] * top[3] + below[n] * (1 - top[3])).concat(1);
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (one) => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== 'none') return null;  // a gradient or a picture: not to be told from styles
      layers.push(parse(style.backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const judge = (one, text, colour) => {
    const back = behind(one);
    if (!back) return;
    let opacity = 1;
    for (let at = one; at; at = at.parentElement) opacity *= +getComputedStyle(at).opacity;
    if (opacity === 0) return;
    const ink = parse(colour);
    ink[3] *= opacity;
    const found = ratio(over(ink, back), back);
    if (found < least - 0.05)
      bad.add(found.toFixed(2) + ' ' + text.trim().slice(0, 40) + ' <' + one.tagName + ' class=' +
              (one.getAttribute('class') || '') + '>');
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !one.checkVisibility({visibilityProperty: true})) continue;
    const box = one.getBoundingClientRect();
    if (box.width < 2 || box.height < 2 || one.closest('.versus, #lightbox, :disabled, .cm-editor')) continue;  // the editor's colours are Gradio's own
    judge(one, walk.currentNode.data, one.closest('svg') ? getComputedStyle(one).fill : getComputedStyle(one).color);
  }
  for (const one of document.querySelectorAll('input:not([type=radio], [type=checkbox]), textarea, select'))
    if (one.checkVisibility({visibilityProperty: true}) && one.value && one.type !== 'range' && !one.disabled)
      judge(one, one.value, getComputedStyle(one).color);
  return [...bad];
}
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    workspace = furnished(tmp_path_factory.mktemp("access") / "work", tmp_path_factory)
    with Server(workspace.root, tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_and_contrast(browser, server, scheme):
    with visiting(browser, server, "?run=mushroom", color_scheme=scheme) as seen:
        found = {}
        for screen in SCREENS:
            opened(seen, screen)
            if scheme == "light":
                portrait(seen, f"screen-{screen.lower().replace(' ', '-')}")
            for summary in seen.page.locator("summary:visible").all():
                summary.click()
            if screen == "Compare":
                _compare(seen)
            found[screen] = [*seen.page.evaluate(_NAMELESS), *seen.page.evaluate(_PALE, CONTRAST)]
        assert not any(found.values()), found


def _compare(seen) -> None:
    def two() -> bool:  # the list is renewed when the tab opens, which may undo a choice made meanwhile
        if seen.page.locator("#comparison svg").count():
            return True
        seen.page.locator("#compared input").click()
        seen.page.locator("[role=option][aria-selected=false]").first.click()
        seen.page.locator("#compared input").blur()
        return False

    seen.until(two)
    seen.page.locator("#comparison svg").first.wait_for()
    portrait(seen, "screen-compare-two")


def test_by_role(browser, server):
    """What a reader of the screen goes by."""
    with visiting(browser, server) as seen:
        page = seen.page
        assert page.get_by_role("tab").count() >= 5
        seen.tab("Photos")
        for name in ("New set", "Undo", "Redo", "Train on these"):
            assert page.get_by_role("button", name=name, exact=True).count() == 1, name
        assert page.get_by_label("Set of photos").count() >= 1
        assert page.get_by_label("Choose photos").count() == 1
        seen.tab("Train")
        for name in ("Trigger word", "What kind of thing", "Name"):
            assert page.get_by_role("textbox", name=name).first.is_visible(), name
        for name in ("Check", "Start"):
            assert page.get_by_role("button", name=name, exact=True).count() == 1, name
        assert page.get_by_role("radio", name="normal").count() == 1
        seen.tab("Runs")
        assert page.get_by_role("progressbar", name="Training done").count() == 1
        assert page.get_by_role("region", name="Samples by step and prompt").count() == 1
        seen.tab("Try it")
        assert page.get_by_role("button", name="Draw", exact=True).count() == 1


def test_by_keys_alone(browser, server, tmp_path):
    """From the top of the page to the drop zone, and Enter opens it; tabs follow the arrows."""
    with visiting(browser, server) as seen:
        page = seen.page
        page.on("filechooser", lambda _: None)  # asked for from here on: else Enter may be there before the asking
        page.get_by_role("tab", name="Photos", exact=True).focus()
        page.keyboard.press("Enter")
        page.locator("#drop input[type=file]").wait_for(state="attached")
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.type") == "file":
                break
        assert page.evaluate("document.activeElement.ariaLabel") == "Choose photos"
        ring = page.locator("#drop .drop").evaluate("(one) => getComputedStyle(one).outlineStyle")
        assert ring == "solid"  # where one is can be seen
        with page.expect_file_chooser() as choosing:
            page.keyboard.press("Enter")
        assert choosing.value.is_multiple()
