"""More than 200 texts that would like to run, in every place that holds a text, on every screen of a real browser."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pytest
from browsing import Server, chromium, visiting
from payloads import PAYLOADS, as_file
from PIL import Image
from view_parts import draw, judged, made_run, measure, put_lora, put_save, validate

from tuner.data.listing import Refused
from tuner.dataset import Dataset
from tuner.dataset.intake import intake
from tuner.dataset.record import Waiting
from tuner.lines import LineWriter
from tuner.status import Fault
from webui import datasets
from webui.forms.basics import Basics
from webui.forms.drafts import Drafts
from webui.jobs.database import writing
from webui.jobs.queue import Queue
from webui.views import words
from webui.workspace import Workspace, fresh_id

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

LINE = [words.one_line(text) for text in PAYLOADS]
"""As a page shows foreign text: what turns the text around it is replaced."""
RUN = as_file(PAYLOADS[3])
"""The run that holds all of them."""
OTHERS = 30
"""More runs, sets, recipes and jobs, each named by another text."""

_TEXTS = """
() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode())
    if (!['SCRIPT', 'STYLE'].includes(walk.currentNode.parentElement.tagName)) found.push(walk.currentNode.data);
  for (const field of document.querySelectorAll('input, textarea')) found.push(field.value);
  return found;
}
"""
_MARKUP = """
() => {
  const bad = [];
  const links = new Set(['href', 'src', 'action', 'data', 'xlink:href', 'formaction', 'srcdoc', 'poster']);
  for (const element of document.querySelectorAll('*')) {
    if (['IFRAME', 'OBJECT', 'EMBED', 'VIDEO', 'AUDIO', 'MATH', 'X-Y'].includes(element.tagName.toUpperCase()))
      bad.push(element.outerHTML.slice(0, 200));
    for (const one of element.attributes)
      if (/^on/i.test(one.name) || one.name === 'popover' ||
          (links.has(one.name) && /^\\s*(javascript:|data:text|(https?:)?\\/\\/evil)/i.test(one.value)))
        bad.push(element.outerHTML.slice(0, 200));
    if (element.tagName === 'SCRIPT' && /^\\s*(window\\.pwned|alert|prompt|fetch)/.test(element.textContent))
      bad.push(element.outerHTML.slice(0, 200));
    if (element.tagName === 'META' && /refresh/i.test(element.httpEquiv))
      bad.push(element.outerHTML.slice(0, 200));
  }
  if (window.pwned !== undefined) bad.push('window.pwned is ' + window.pwned);
  return bad;
}
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    workspace = Workspace.open(tmp_path_factory.mktemp("payloads") / "work")
    _pictures(workspace)
    _runs(workspace)
    _jobs(workspace)
    with Server(workspace.root, tmp_path_factory.mktemp("cache")) as server:
        yield server


def _pictures(workspace: Workspace) -> None:
    """One set with all of them as names, captions, refused files and waiting captions; more sets named by others."""
    for name in PAYLOADS[1:OTHERS]:
        datasets.make(workspace, name[:100])
    made = Dataset(workspace.dataset(datasets.make(workspace, PAYLOADS[0])))
    pixels = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype="uint8")).save(pixels, "PNG")
    intake(made, PAYLOADS[0], pixels.getvalue())  # taken in by that name
    with made.changing() as change:
        first = change.contents.pictures[0]
        file, thumb = made.images / first.file_name, made.thumbs / first.thumb_name
        pictures = [replace(first, name=PAYLOADS[0])]
        change.set_caption(first, PAYLOADS[0])
        for text in PAYLOADS[1:]:
            one = replace(first, id=fresh_id(), name=text, notes=(text,))
            (made.images / one.file_name).write_bytes(file.read_bytes())
            (made.thumbs / one.thumb_name).write_bytes(thumb.read_bytes())
            change.set_caption(one, text)
            pictures.append(one)
        change.contents = replace(
            change.contents,
            pictures=tuple(pictures),
            refused=tuple(Refused(text, text) for text in PAYLOADS),
            waiting=tuple(Waiting(text, text, "", text) for text in PAYLOADS),
        )
        change.save_captions()
        change.save_contents()


def _runs(workspace: Workspace) -> None:
    """A run that holds all of them in each of its files, and others with such names that are compared with it."""
    for number, text in enumerate(PAYLOADS[4 : 4 + OTHERS]):
        some = PAYLOADS[number * 2 : number * 2 + 2]
        made = made_run(workspace.runs / as_file(text), prompts=some, sampled=(0,), state="failed", rank=number + 1)
        made.resolved_file.write_text(made.resolved_file.read_text().replace("name: lora", f"name: {json.dumps(text)}"))
    run = made_run(
        workspace.runs / RUN,
        prompts=PAYLOADS[:40],
        sampled=(0, 10),
        state="failed",
        phase=PAYLOADS[8],
        error=Fault("data", " ".join(PAYLOADS[:3]), PAYLOADS[5]),
    )
    draw(run, 20, PAYLOADS[40:80])
    LineWriter(run.log_file).append([f"2026-11-21T17:00:09 warning: {text}" for text in PAYLOADS[:150]])
    measure(run, 30, **dict.fromkeys(PAYLOADS[:40], 1.0))
    for folder in (run.adapter, run.checkpoints / "10" / "adapter"):
        put_save(run, 10)
        put_lora(folder, as_file(PAYLOADS[5])[:100], metadata={text: text for text in PAYLOADS})
        code = "\n".join(PAYLOADS)
        (folder / "README.md").write_text(f"{code}\n## {PAYLOADS[0]}\n\n```python\n{code}\n```\n")
    (run.path / "recipe.yaml").write_text("".join(f"# {text}\n" for text in PAYLOADS))
    validate(run, s10=0.5, s40=0.3)
    judged(run, None, 0.5, base=PAYLOADS[2], prompts=PAYLOADS[3])


def _jobs(workspace: Workspace) -> None:
    """Ended jobs whose titles, words, reasons and hints are such texts; recipes that are being written."""
    Queue(workspace).refresh()
    with writing(workspace.database) as connection:
        for number, text in enumerate(PAYLOADS[:OTHERS]):
            kind = ("grid", "package", "publish", "eval", "train")[number % 5]
            named = json.dumps(["grid", "--json", "--", text])
            id = fresh_id()
            (workspace.jobs / id).mkdir()
            connection.execute(
                "INSERT INTO job (id, kind, title, words, device, state, place, created, finished, reason, hint, run) "
                "VALUES (?, ?, ?, ?, 'cpu', 'failed', 0, ?, ?, ?, ?, ?)",
                (id, kind, text, named, time.time(), time.time(), text, text, RUN),
            )
    for text in PAYLOADS[:OTHERS]:
        lines = "".join(f"    - {json.dumps(one)}\n" for one in PAYLOADS[:24])
        Drafts(workspace).save(
            f"adapters: lora\nbackbone: sd15\nsample:\n  prompts:\n{lines}  negative: {json.dumps(text)}\n",
            Basics(name=text[:80], trigger=text[:60], subject=text[:60]),
        )


def texts(seen) -> str:
    return "\n".join(seen.page.evaluate(_TEXTS))


def harmless(seen) -> None:
    """Nothing of it became markup, and nothing ran."""
    assert seen.page.evaluate(_MARKUP) == []
    assert seen.dialogs == []
    assert seen.complaints == []


def shown(seen, wanted, place: str) -> None:
    """Each of these stands on the page, letter by letter."""
    seen.until(lambda: wanted[0] in texts(seen), because=f"{place}: {wanted[0]}")
    said = texts(seen)
    missing = [text for text in wanted if text not in said]
    assert missing == [], (place, len(missing), missing[:5])


def options(seen, name: str) -> list[str]:
    """What a picker offers, while it stays open."""
    seen.page.locator(f"#{name} input").click()
    seen.page.locator("[role=option]").nth(1).wait_for()
    harmless(seen)
    found = seen.page.evaluate("() => [...document.querySelectorAll('[role=option]')].map((one) => one.ariaLabel)")
    return [text.strip() for text in found]


def choose(seen, name: str, text: str, after: str = "") -> list[str]:
    """Take the one option of that text, with something like ` (3)` behind it; gives all that were offered."""
    found = options(seen, name)
    at = next(n for n, one in enumerate(found) if one == text or (after and one.startswith(text + after)))
    seen.page.locator("[role=option]").nth(at).click()
    return found


def test_photos(browser, server):
    with visiting(browser, server) as seen:
        seen.tab("Photos")
        names = choose(seen, "dataset", PAYLOADS[0], " (")
        for text in PAYLOADS[:OTHERS]:
            clean = " ".join("".join(char if char.isprintable() else " " for char in text[:100]).split())
            assert any(name.startswith(clean) for name in names), (clean, names)
        seen.page.locator("#grid .photo").nth(len(PAYLOADS) - 1).wait_for(timeout=60_000)
        shown(seen, PAYLOADS, "photos")
        captions = seen.page.evaluate("() => [...document.querySelectorAll('#grid textarea')].map((one) => one.value)")
        assert captions == list(PAYLOADS)
        alts = seen.page.evaluate("() => [...document.querySelectorAll('#grid .photo img')].map((one) => one.alt)")
        assert alts == list(PAYLOADS)
        harmless(seen)

        field = seen.page.locator("#grid textarea").first
        field.fill("".join(PAYLOADS[:30])[:4000])
        field.blur()
        seen.page.locator("#bulk button").first.click()
        seen.field("edit-first").fill("${window.pwned=1}{{value}}<img src=x onerror=alert(1)>")
        seen.page.locator("#edit-preview b").first.wait_for()
        shown(seen, ["${window.pwned=1}{{value}}<img src=x onerror=alert(1)>"], "preview")
        seen.page.locator("#edit-apply").click()
        seen.page.locator("#words .pill").first.wait_for()
        seen.page.locator("#grid .photo img").first.click()
        seen.page.locator("#lightbox p").get_by_text(PAYLOADS[0], exact=True).wait_for()
        harmless(seen)


def test_dropped_files(browser, server):
    """Names that come from a browser, with files that are refused and files that are taken."""
    rng = np.random.default_rng(1)
    with visiting(browser, server) as seen:
        seen.tab("Photos")
        seen.field("set-name").fill("${window.pwned=1}{{value}}")
        seen.page.locator("#new-set").click()
        seen.page.locator("#grid .photo").first.wait_for(state="detached")
        seen.page.locator("#grid [data-do=delete-set]").wait_for()
        seen.until(lambda: "${window.pwned=1}{{value}} (0)" in texts(seen))
        files = []
        for number, text in enumerate(PAYLOADS[::6]):
            pixels = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype="uint8")).save(pixels, "PNG")
            whole = pixels.getvalue()
            name = as_file(text) + ".png"
            files.append({"name": name, "mimeType": "image/png", "buffer": whole if number % 2 else whole[:60]})
        seen.page.locator("#drop input[type=file]").set_input_files(files)
        seen.page.get_by_text("refused: see below why").wait_for(timeout=90_000)
        seen.page.locator("#grid .photo").nth(len(files) // 2 - 1).wait_for(timeout=60_000)
        listed = seen.page.locator("#grid [role=alert] li").all_inner_texts()
        assert len(listed) == len(files) - len(files) // 2
        shown(seen, ["<script>window.pwned=1<"], "refused files")
        harmless(seen)


def test_start_and_runs(browser, server):
    with visiting(browser, server) as seen:
        seen.page.locator("#recent .item").nth(20).wait_for()
        shown(seen, LINE[:OTHERS], "start")
        harmless(seen)
        seen.tab("Runs")
        names = choose(seen, "run", RUN)
        for text in PAYLOADS[3 : 4 + OTHERS]:
            assert as_file(text) in names, text
        seen.until(lambda: seen.state() == "failed")
        seen.page.locator("#samples img").first.wait_for()
        shown(seen, [words.shown(text) for text in PAYLOADS[:80]], "monitor: prompts")
        shown(seen, [words.shown(text) for text in PAYLOADS[:150]], "monitor: log")
        shown(seen, [words.one_line(text, 60) for text in PAYLOADS[:30]], "monitor: charts")
        shown(seen, [*LINE[:3], LINE[5]], "monitor: fault")
        alts = seen.page.evaluate("() => [...document.querySelectorAll('#samples img')].map((one) => one.alt)")
        assert any(PAYLOADS[0] in alt for alt in alts)
        harmless(seen)
        _results_and_try(seen)


def _results_and_try(seen) -> None:
    seen.tab("Results")
    seen.page.locator("#results [data-do=package]").wait_for()
    shown(seen, [words.shown(text) for text in PAYLOADS], "results: metadata, card and code")
    for summary in seen.page.locator("#results summary").all():
        summary.click()
    harmless(seen)
    seen.page.locator("#results [data-do=package]").click()
    seen.page.locator("#publish button").first.click()
    seen.field("repo").fill(PAYLOADS[3][:90])
    harmless(seen)
    seen.tab("Try it")
    seen.until(lambda: seen.field("prompt").input_value() == PAYLOADS[0])
    shown(seen, [LINE[25]], "try it: the job's fault")
    seen.page.locator("#drawn summary").first.click()
    harmless(seen)


def test_train(browser, server):
    with visiting(browser, server) as seen:
        seen.tab("Train")
        names = choose(seen, "draft", PAYLOADS[0], " \u00b7 ")
        for text in PAYLOADS[:OTHERS]:
            assert any(name.startswith(text[:80].strip()) for name in names), (text, names)
        seen.until(lambda: seen.field("trigger").input_value() == PAYLOADS[0][:60])
        seen.page.locator("#fields summary").first.wait_for()
        editor = seen.page.locator("#yaml .cm-content")
        seen.until(lambda: json.dumps(PAYLOADS[1]) in editor.inner_text())
        prompts = seen.page.locator('[data-edit="sample.prompts"]')
        assert prompts.input_value().split("\n") == [" ".join(text.splitlines()) for text in PAYLOADS[:24]]
        harmless(seen)

        for name in ("trigger", "class", "name"):
            for text in (PAYLOADS[3], PAYLOADS[36], PAYLOADS[40], PAYLOADS[5]):
                seen.field(name).fill(text[:60])
                seen.field(name).blur()
        seen.page.locator("#check").click()
        seen.page.locator("#plan .card").wait_for(timeout=60_000)
        harmless(seen)
        _toasts(seen)


def _toasts(seen) -> None:
    """A number field that is given such a text says so, with the text."""
    field = seen.page.locator('[data-edit="train.steps"]')
    seen.page.locator('#fields details:has([data-edit="train.steps"]) > summary').click()
    said = "() => [...document.querySelectorAll('[data-testid=toast-text]')].map((one) => one.textContent).join()"
    for number, text in enumerate([*PAYLOADS[3:8], *PAYLOADS[34:48]]):
        field.fill(text)
        field.blur()
        seen.page.get_by_test_id("toast-text").first.wait_for()
        if number < 2:  # one that is no YAML either is told of by its fault, which need not quote it
            seen.until(lambda text=text: text in seen.page.evaluate(said), 30, f"toast: {text}")
        harmless(seen)


def test_broken_recipes(browser, server):
    """What the recipe's check quotes of a text that is no recipe."""
    with visiting(browser, server) as seen:
        seen.tab("Train")
        editor = seen.page.locator("#yaml .cm-content")
        for text in (PAYLOADS[3], PAYLOADS[36], PAYLOADS[40], "{{value}}", "`${window.pwned=1}`"):
            editor.click()
            seen.page.keyboard.press("Control+a")
            seen.page.keyboard.insert_text(f"adapters: {json.dumps(text)}\n{json.dumps(text)}: 1\n")
            seen.page.locator("#problems .fault").first.wait_for()
            shown(seen, [text], "problems")
            seen.page.locator("#check").click()
            seen.page.locator("#plan .fault").first.wait_for(timeout=60_000)
            harmless(seen)


def test_compare(browser, server):
    with visiting(browser, server) as seen:
        seen.tab("Compare")
        seen.page.locator("#comparison svg").first.wait_for()  # the latest two are there from the start
        for text in (PAYLOADS[10], PAYLOADS[33]):
            if as_file(text) not in seen.page.locator("#compared").inner_text():
                choose(seen, "compared", as_file(text))
                seen.page.keyboard.press("Escape")
                seen.page.locator("#compared input").blur()
        seen.until(lambda: seen.page.locator("#comparison thead th").count() >= 3)
        shown(seen, [as_file(PAYLOADS[10]), as_file(PAYLOADS[33])], "compare: names")
        shown(seen, LINE[:2], "compare: prompts")
        harmless(seen)


def test_addresses(browser, server):
    """A run that an address names is looked up, and never shown as it came."""
    for text in PAYLOADS[:: len(PAYLOADS) // 6]:
        with visiting(browser, server, "?run=" + quote(text, safe="")) as seen:
            harmless(seen)
