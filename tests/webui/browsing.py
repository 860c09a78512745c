"""A real server process and a real browser: what the browser tests share."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from stand_in import chromium
from view_parts import made_run

from tuner import toybox
from tuner.dataset import Dataset, editing
from tuner.dataset.intake import intake_paths
from webui import datasets
from webui.workspace import Workspace

__all__ = [
    "SCREENS",
    "Server",
    "Visitor",
    "chromium",
    "finished_run",
    "furnished",
    "load_factor",
    "opened",
    "portrait",
    "visiting",
]

START_S = 90
"""A server on a busy machine takes this long at most."""


class Server:
    """`tuner ui` in its own process."""

    def __init__(self, workspace: Path, cache: Path, port: int = 0) -> None:
        self.workspace, self.cache, self.port = workspace, cache, port
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {**os.environ, "TUNER_CACHE": str(self.cache), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        words = [sys.executable, "-m", "tuner", "ui", "--workspace", str(self.workspace)]
        words += ["--port", str(self.port)] if self.port else []
        self.process = subprocess.Popen(
            words,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.workspace.parent,
        )
        began = time.monotonic()
        assert self.process.stdout is not None
        line = ""
        while "tuner is at" not in line:
            assert time.monotonic() - began < START_S and self.process.poll() is None, self.said
            line = self.process.stdout.readline()
            self.said += line
        self.port = int(re.search(r":(\d+)\b", line.split("tuner is at")[1])[1])

    def kill(self) -> None:
        """As a crash does it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self._gone(self.process)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self._gone(self.process)

    def _gone(self, process) -> None:
        process.wait(20)
        process.stdout.close()


class Visitor:
    """A browser's page, with all that it complained of and asked for."""

    def __init__(self, browser, **words) -> None:
        words.setdefault("viewport", {"width": 1200, "height": 900})
        self.context = browser.new_context(accept_downloads=True, **words)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("dialog", lambda dialog: self._dialog(dialog))
        self.dialogs: list[str] = []

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_) -> None:
        self.context.close()

    def _asked(self, request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.outside.append(request.url)

    def _dialog(self, dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.accept()

    def visit(self, server: Server, query: str = "") -> None:
        self.page.goto(server.url + "/" + query)
        self.page.locator("#hero, #run-head, #drop, #basics, #compared").first.wait_for()
        self.page.wait_for_function("window.tunerArrived")  # until then the page still goes where it was left

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def field(self, name: str):
        """The input of a component by its elem_id."""
        return self.page.locator(f"#{name} textarea, #{name} input").first

    def state(self) -> str:
        return self.page.locator("#state").get_attribute("data-state") or ""

    def step(self) -> int:
        return int(self.page.locator("#progress").get_attribute("data-step") or 0)

    def until(self, what, seconds: float = 120, because: str = "") -> None:
        """Wait on the page's own state; `what` is asked again and again."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, because or self.page.locator("body").inner_text()[:3000]
            self.page.wait_for_timeout(300)

    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@contextmanager
def visiting(browser, server: Server, query: str = "", **words):
    """A visit that must end without a complaint of the browser and without a request to elsewhere."""
    with Visitor(browser, **words) as visitor:
        try:
            visitor.visit(server, query)
            yield visitor
        except BaseException:
            shot = server.workspace.parent / "failure.png"
            visitor.page.screenshot(path=shot, full_page=True)
            print(f"the page as it was: {shot}")
            raise
        assert visitor.outside == []
        assert visitor.complaints == [], visitor.complaints


def finished_run(tmp_path_factory) -> Path:
    """A real run that is done, made once for all tests of this process; copy it, do not change it."""
    place = tmp_path_factory.getbasetemp() / "finished" / "mushroom"
    if not place.exists():
        half = place.with_name("half")
        shutil.rmtree(half, ignore_errors=True)
        words = ["run", "lora", "--rehearse", "train.steps=4", "sample.every=4", "save.every=2", "sample.steps=2"]
        words += ["sample.prompts=[a house, a tree, a photo of a dog, a cup on a table, a mushroom at night]"]
        words += ["train.batch=1", "log.every=1", "--run-dir", str(half)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "tuner", *words], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        half.rename(place)
    return place


def furnished(root: Path, tmp_path_factory) -> Workspace:
    """A workspace with something on every screen: photos, a run that is done, one like it, and one that goes on.

    The one that goes on is made up, and is as alive as this process.
    """
    workspace = Workspace.open(root)
    photos = Dataset(workspace.dataset(datasets.make(workspace, "my mushroom")))
    assert all(verdict.accepted for verdict in intake_paths(photos, sorted(toybox.pictures().glob("*.png"))))
    editing.apply(photos, editing.Trigger("sks"))
    finished = finished_run(tmp_path_factory)
    for name, lr in (("mushroom", "0.002"), ("other-mushroom", "0.001")):
        made = workspace.runs / name
        shutil.copytree(finished, made)
        resolved = made / "resolved.yaml"
        resolved.write_text(resolved.read_text().replace("lr: 0.002", f"lr: {lr}"))
    made_run(workspace.runs / "going-on", prompts=("a dog", "a cup", "a tree", "a house", "a mushroom"))
    return workspace


SCREENS = {
    "Start": "#recent .item",
    "Photos": "#grid .photo img",
    "Train": "#fields summary",
    "Monitor": "#state",
    "Results": "#results a[data-file]",
    "Try it": "#draw",
    "Compare": "#comparison",
}
"""Each screen, and what stands on it once it is there."""


def opened(seen: Visitor, screen: str) -> None:
    """Go to a screen and wait until it is there."""
    if screen in ("Monitor", "Results", "Try it"):
        seen.tab("Runs")
    seen.tab(screen)
    seen.page.locator(SCREENS[screen]).first.wait_for()


def portrait(seen: Visitor, name: str) -> None:
    """A picture of the page for the docs, where the environment's TUNER_SCREENSHOTS names a folder for them."""
    folder = os.environ.get("TUNER_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        seen.page.wait_for_function("[...document.images].every((one) => one.loading === 'lazy' || one.complete)")
        seen.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


IDLE_MS = 60.0
"""What the work of `load_factor` takes on an idle machine of the kind that tests run on."""
_WORK = "() => { const began = performance.now(); let sum = 0; for (let i = 0; i < 4e7; i++) sum += i % 7; " + (
    "return performance.now() - began + (sum < 0 ? 1 : 0); }"
)


def load_factor(page) -> float:
    """How many times slower than idle this machine is at the moment, at least 1.

    The same loop is timed in the browser itself, as the median of five: what it waits for are the same cores.
    """
    times = sorted(page.evaluate(_WORK) for _ in range(5))
    return max(1.0, times[2] / IDLE_MS)
