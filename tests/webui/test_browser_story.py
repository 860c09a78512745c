"""The whole way in a real browser: from dropped photos to a downloaded file, with a server that dies in between."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from browsing import Server, chromium, visiting
from PIL import Image

from tuner import toybox

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("story") / "work", tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    """Five good pictures, one as HEIC, captions, and what must be refused."""
    folder = tmp_path_factory.mktemp("dropped")
    names = []
    for number, path in enumerate(sorted(toybox.pictures().glob("*.png"))):
        with Image.open(path) as picture:
            seen = picture.convert("RGB")
        target = folder / f"mushroom {number}.{'heic' if number == 4 else 'jpg'}"
        if number == 4:
            heif = pytest.importorskip("pillow_heif")
            heif.from_pillow(seen).save(target)
        else:
            seen.save(target, quality=95)
        names.append(target)
    (folder / "mushroom 0.txt").write_text("a photo of sks mushroom on the grass")
    (folder / "broken.jpg").write_bytes(names[0].read_bytes()[:300])
    (folder / "not a picture.png").write_text("<script>alert(1)</script>")
    slip = io.BytesIO()
    with zipfile.ZipFile(slip, "w") as archive:
        archive.writestr("../../evil.txt", "x")
        archive.writestr("../outside.png", names[0].read_bytes())
    (folder / "slip.zip").write_bytes(slip.getvalue())
    huge = folder / "huge.png"
    with huge.open("wb") as file:
        file.truncate(65 * 2**20)
    return sorted(folder.iterdir())


def test_from_dropped_photos_to_a_file(browser, server, dropped, tmp_path):
    with visiting(browser, server) as seen:
        page = seen.page
        page.locator("#new").click()
        seen.field("set-name").fill("my mushroom")
        page.locator("#new-set").click()
        page.locator("#drop .drop[data-upload]").wait_for()

        page.locator("#drop input[type=file]").set_input_files(dropped)
        page.locator("#grid .photo").nth(4).wait_for()
        page.get_by_text("refused: see below why").wait_for()
        refused = page.locator("#grid [role=alert]")
        refused.wait_for()
        said = refused.inner_text()
        for name in ("broken.jpg", "not a picture.png", "huge.png"):
            assert name in said, said
        assert page.locator("#grid .photo").count() in (5, 6)  # the zip's picture is one of them, seen twice

        captions = page.locator("#grid textarea")
        values = [captions.nth(n).input_value() for n in range(captions.count())]
        assert "a photo of sks mushroom on the grass" in values
        empty = values.index("")
        captions.nth(empty).fill("a photo of sks mushroom at night")
        captions.nth(empty).blur()
        page.locator("#words").get_by_text("night").wait_for()
        page.locator("#undo").click()
        seen.until(lambda: captions.nth(empty).input_value() == "")

        page.locator("#train-these").click()
        page.locator("#practice input").check()
        seen.field("class").fill("mushroom")
        seen.field("name").fill("story")
        seen.field("name").blur()
        seen.until(lambda: "toybox" in page.locator("#yaml .cm-content").inner_text(), 30)
        _set_steps(seen, 60)
        page.locator("#check").click()
        page.locator("#plan [data-ok=yes]").wait_for()
        assert "60 steps" in page.locator("#plan").inner_text()
        page.locator("#start").click()

        page.locator("#state").wait_for()
        seen.until(lambda: seen.state() == "training" and seen.step() >= 2, 240)
        page.locator("#samples img").first.wait_for()
        page.locator("#charts svg").first.wait_for()
        run = page.locator("#run input").input_value()
        assert run == "story-1"

        before = seen.step()
        page.reload()
        page.locator("#state").wait_for()
        assert seen.step() >= before
        seen.until(lambda: seen.state() != "training" or seen.step() > before)

        page.locator("#do-stop").click()
        seen.until(lambda: seen.state() == "stopped")
        stopped = seen.step()
        assert 0 < stopped < 60
        seen.complaints[:] = [text for text in seen.complaints if "413" not in text]  # the browser's own, of huge.png
    server.kill()
    server.start()
    with visiting(browser, server, "?run=story-1") as seen:
        page = seen.page
        page.locator("#state").wait_for()
        assert seen.state() == "stopped"
        page.locator("#do-resume").click()
        seen.until(lambda: seen.state() in ("training", "saving", "sampling", "done") and seen.step() >= stopped, 240)
        server.kill()
        server.start()
        page.goto(server.url + "/?run=story-1")
        page.locator("#state").wait_for()
        seen.until(lambda: seen.state() == "done", 240)
        assert seen.step() == 60
        seen.complaints.clear()  # of the time when there was no server

        seen.tab("Results")
        page.locator("#results a[data-file='story-1.safetensors']").wait_for()
        with page.expect_download() as arriving:
            page.locator("#results a[data-file='story-1.safetensors']").click()
        file = tmp_path / arriving.value.suggested_filename
        arriving.value.save_as(file)
        assert file.name == "story-1.safetensors"

        seen.tab("Try it")
        seen.until(lambda: "sks" in seen.field("prompt").input_value())
        page.locator("#draw").click()
        page.locator("#drawn .versus img").nth(1).wait_for(timeout=180_000)
        pictures = [_fetched(page, page.locator("#drawn .versus img").nth(n).get_attribute("src")) for n in (0, 1)]
        assert np.abs(pictures[0] - pictures[1]).mean() > 1  # strength 0 against 1
    _changes_the_picture(file)
    journal = [json.loads(line) for line in (server.workspace / "runs/story-1/journal.jsonl").read_text().splitlines()]
    assert any(row["event"] == "resumed" for row in journal)


def _set_steps(seen, steps: int) -> None:
    """Through the form, which changes the text."""
    page = seen.page
    page.locator("#fields summary", has_text="Training").first.click()
    for path, value in (("train.steps", steps), ("sample.every", 20), ("save.every", 20)):
        field = page.locator(f'[data-edit="{path}"]')
        if not field.is_visible():
            page.locator(f'#fields details:has([data-edit="{path}"]) > summary').click()
        field.fill(str(value))
        field.blur()
        key = path.rpartition(".")[2]
        seen.until(lambda key=key, value=value: f"{key}: {value}" in page.locator("#yaml .cm-content").inner_text(), 30)


def _fetched(page, source: str) -> np.ndarray:
    answer = page.request.get(source if source.startswith("http") else page.url.split("/?")[0].rstrip("/") + source)
    assert answer.ok
    with Image.open(io.BytesIO(answer.body())) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float32)


def _changes_the_picture(file) -> None:
    """What was downloaded loads in plain diffusers and does something."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(toybox.folder("sd15"))
    pipe.set_progress_bar_config(disable=True)

    def drawn():
        generator = torch.Generator().manual_seed(1)
        image = pipe("a photo of sks mushroom", num_inference_steps=4, height=64, width=64, generator=generator)
        return np.asarray(image.images[0], dtype=np.float32)

    plain = drawn()
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    assert np.abs(drawn() - plain).mean() > 1
