"""Optional sinks: numbers and pictures arrive, paths and tokens do not."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tuner import trackers
from tuner.errors import TunerError, UsageError
from tuner.recipe import Recipe
from tuner.resolved import scrub

SECRET = "hf_" + "a1B2c3D4e5F6g7H8"


@pytest.fixture
def config(tmp_path):
    return scrub(
        Recipe.model_validate(
            {
                "backbone": {"name": "sd15", "model": "/home/anna/secret-models/mine.safetensors"},
                "adapters": "lora",
                "task": "finetune",
                "data": {"images": {"path": "/home/anna/holiday", "caption": f"a photo {SECRET}"}},
                "train": {"steps": 10},
            }
        )
    )


@pytest.fixture
def picture(tmp_path):
    info = PngInfo()
    info.add_text("parameters", "somebody's settings")
    file = tmp_path / "0.png"
    Image.new("RGB", (8, 6), (200, 10, 30)).save(file, pnginfo=info)
    return file


def play(watchers, picture):
    for watcher in watchers:
        watcher.phase("training", 10)
        watcher.metrics(5, {"loss": 0.5, "lr": 1e-4})
        watcher.metrics(10, {"loss": 0.25, "lr": 1e-4})
        watcher.samples(10, [("a red square", picture)])
        watcher.close()


def test_tensorboard_reads_back(tmp_path, config, picture):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    play(trackers.open_trackers(["tensorboard"], tmp_path / "runs" / "a", config), picture)
    events = EventAccumulator(str(tmp_path / "runs" / "a" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(5, 0.5), (10, 0.25)]
    assert [e.step for e in events.Images("samples/0")] == [10]
    image = events.Images("samples/0")[0]
    assert (image.width, image.height) == (8, 6)
    written = b"".join(f.read_bytes() for f in (tmp_path / "runs" / "a" / "tensorboard").iterdir())
    for private in (b"anna", b"holiday", b"secret-models", SECRET.encode(), b"somebody", str(tmp_path).encode()):
        assert private not in written


def test_tensorboard_forgets_what_is_done_again(tmp_path, config):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = trackers.open_trackers(["tensorboard"], tmp_path, config)[0]
    for step in (1, 2, 3):
        first.metrics(step, {"loss": 1.0})
    first.close()
    again = trackers.open_trackers(["tensorboard"], tmp_path, config, step=1)[0]
    for step in (2, 3):
        again.metrics(step, {"loss": 2.0})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 2.0)]


class Fake:
    """Records what a tracker's package would have been sent."""

    def __init__(self):
        self.sent = []
        self.logs = []
        self.finished = False

    def Settings(self, **settings):
        self.sent.append(settings)
        return SimpleNamespace(**settings)

    def Image(self, value, caption=None):
        return ("image", value.shape, caption)

    def init(self, **arguments):
        self.sent.append(arguments)
        return self

    def log(self, values, step):
        self.logs.append((step, values))

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_others_get_numbers_and_pictures_but_no_paths(name, tmp_path, config, picture, monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(trackers, "find_spec", lambda _: True)
    play(trackers.open_trackers([name], tmp_path / "runs" / "a", config), picture)
    assert [(step, values["loss"]) for step, values in fake.logs[:2]] == [(5, 0.5), (10, 0.25)]
    assert "('image', (6, 8, 3), 'a red square')" in str(fake.logs[2])
    assert fake.finished
    sent = [{k: v for k, v in call.items() if k not in ("dir", "settings")} for call in fake.sent]  # dir stays here
    assert "'name': 'a'" in str(sent)
    for private in ("anna", "holiday", "secret-models", SECRET, str(tmp_path)):
        assert private not in str(sent) + str(fake.logs)


def test_wandb_is_kept_from_looking_around(tmp_path, config, monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(trackers, "find_spec", lambda _: True)
    trackers.open_trackers(["wandb"], tmp_path, config)
    assert fake.sent[0] == {
        "console": "off",
        "disable_code": True,
        "disable_git": True,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
    }
    assert fake.sent[1]["save_code"] is False


@pytest.mark.parametrize("name", sorted(trackers.TRACKERS))
def test_a_missing_package_is_named_before_anything_starts(name, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"log.to: {name} is not installed.*\n.*diffusion-tuner\[track\]") as caught:
        trackers.open_trackers([name], tmp_path, {})
    assert isinstance(caught.value, TunerError)


def test_every_name_of_the_recipe_has_a_tracker():
    from typing import get_args

    from tuner.sections import Log

    annotation = str(Log.model_fields["to"].annotation)
    assert all(name in annotation for name in trackers.TRACKERS)
    assert annotation.count("'") == 2 * len(trackers.TRACKERS)
    assert get_args(Log.model_fields["to"].annotation)
