"""Pages reloaded, browsers closed and servers killed while a run goes on: it is never lost, and always shown again."""

from __future__ import annotations

import json
import time

import pytest
from browsing import Server, Visitor, chromium, load_factor

from tuner.rundir import RunDir
from tuner.status import LIVE, read_status
from webui.jobs import words as commands
from webui.jobs.queue import Queue
from webui.workspace import Workspace

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(1500)]

SHOWN_S = 2.0
"""From asking for the page to seeing the run on it, on an idle machine."""
STEPS = 40
RECIPE = f"""\
backbone:
  name: sd15
  model: toybox
adapters: lora
task: finetune
data:
  images: {{path: PICTURES, caption: a photo of sks mushroom}}
  resolution: 64
train:
  steps: {STEPS}
  batch: 1
  lr: 1e-4
sample:
  every: 20
  steps: 2
  prompts:
    - a house
save:
  every: 10
log:
  every: 5
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(
    ("reloads", "kills"), [(3, 2), pytest.param(20, 10, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_a_run_outlives_its_page_and_its_server(browser, tmp_path, own_cache, reloads, kills):
    from tuner import toybox

    workspace = Workspace.open(tmp_path / "work")
    steps = STEPS * (1 if kills < 5 else 8)
    with Server(workspace.root, own_cache) as server:
        name = _begin(workspace, str(toybox.pictures()), steps)
        run = workspace.runs / name
        seen = Visitor(browser)
        slow = _slow(seen)
        took: list[float] = []
        furthest = 0
        left = ["reload"] * reloads + ["kill"] * kills
        left = [left[(7 * n) % len(left)] for n in range(len(left))] if len(left) % 7 else left  # one among the other
        seen.visit(server, f"?run={name}")
        for number, event in enumerate(left):
            if event == "kill":
                server.kill()
                server.start()
            if number % 3 == 2:  # somebody closes the browser, and comes back later
                seen.context.close()
                seen = Visitor(browser)
            slow = max(slow, _slow(seen))
            began = time.monotonic()
            seen.visit(server, f"?run={name}")
            seen.page.locator("#state").wait_for()
            took.append(time.monotonic() - began)
            status = read_status(run / "status.json")
            assert status is None or status.state in (*LIVE, "done"), status
            shown = seen.step()
            assert shown >= furthest, (shown, furthest)
            furthest = shown
            assert seen.outside == []
        seen.until(lambda: seen.state() == "done", 60 + steps * slow, "the run did not end")
        assert seen.step() == steps
        seen.context.close()
    print(
        f"seen again after {sorted(round(one, 2) for one in took)} s; this machine is {slow:.1f} times slower than idle"
    )
    assert max(took) <= SHOWN_S * slow + 1, (took, slow)
    _whole(workspace, run, steps)


def _slow(seen: Visitor) -> float:
    """Measured on a page of its own: the other one loads itself anew when its server comes back."""
    page = seen.context.new_page()
    try:
        return load_factor(page)
    finally:
        page.close()


def _begin(workspace: Workspace, pictures: str, steps: int) -> str:
    """Queue the run as the Train screen does, without waiting for its pages: their way is another test's."""
    place = RunDir.create(workspace.runs, "kept").path
    text = RECIPE.replace("PICTURES", pictures).replace(f"steps: {STEPS}\n", f"steps: {steps}\n")
    Queue(workspace).add(
        "train", "kept", lambda folder: commands.train(folder / "recipe.yaml", place), files={"recipe.yaml": text}
    )
    return place.name


def _whole(workspace: Workspace, run, steps: int) -> None:
    """It was trained in one go: nobody stopped it, and nobody began it again."""
    status = read_status(run / "status.json")
    assert status is not None
    assert (status.state, status.step) == ("done", steps)
    events = [json.loads(line)["event"] for line in (run / "journal.jsonl").read_text().splitlines()]
    assert "resumed" not in events
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [row["step"] for row in rows if row["name"] == "loss"]
    assert max(measured) == steps
    assert measured == sorted(measured)
    job = next(job for job in Queue(workspace).jobs() if job.run == run.name)
    assert job.state == "done"
    assert (run / "adapter" / "pytorch_lora_weights.safetensors").is_file()
