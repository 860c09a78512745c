"""Class pictures: once per base, caption and settings; killed anywhere, they come out the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import load_sd15

from tuner.data import prior
from tuner.data.sources import PriorSource
from tuner.errors import Stopped
from tuner.objectives import Objective
from tuner.watch import Watcher

SIZE = (64, 64)


class Seen(Watcher):
    def __init__(self):
        self.lines, self.phases, self.done = [], [], []

    def warn(self, text):
        self.lines.append(text)

    def phase(self, name, total=None, done=0):
        self.phases.append((name, total, done))

    def progress(self, done):
        self.done.append(done)


def source(generate=6, **keys):
    return PriorSource(caption="a photo of a dog", generate=generate, steps=2, guidance=3.0, **keys)


def generate(model, root: Path, source, have=0, watcher=None, **keys) -> Path:
    bound = Objective.read("ddpm").bind(model.scheduler, torch.device("cpu"))
    return prior.generate(
        model, source, keys.pop("size", SIZE), have, root, objective=bound, watcher=watcher or Watcher(), **keys
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def model(sd15_folder):
    return load_sd15("toybox")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    return generate(model, tmp_path_factory.mktemp("whole"), source())


def test_as_many_as_asked_for_with_the_seed_of_each(whole):
    from PIL import Image

    names = [f"{n:04d}.png" for n in range(6)]
    assert sorted(contents(whole)) == [*names, "index.json"]
    index = json.loads((whole / "index.json").read_text())
    assert [row["file"] for row in index["pictures"]] == names
    seeds = [row["seed"] for row in index["pictures"]]
    assert len(set(seeds)) == 6
    assert index["caption"] == "a photo of a dog"
    drawn = []
    for name in names:
        with Image.open(whole / name) as picture:
            assert picture.size == SIZE
            drawn.append(np.asarray(picture).tobytes())
    assert len(set(drawn)) == 6


def test_the_recorded_seed_draws_the_picture(model, whole):
    from PIL import Image

    from tuner.sampling import Shot, paint

    row = json.loads((whole / "index.json").read_text())["pictures"][3]
    (again,) = paint(model, [Shot("a photo of a dog", "", row["seed"], SIZE, 2, 3.0)])
    with Image.open(whole / row["file"]) as kept:
        assert np.abs(np.asarray(kept).astype(int) - np.asarray(again).astype(int)).max() <= 1


@pytest.mark.parametrize("missing", [{0}, {5}, {1, 4}, {0, 1, 2, 3, 4, 5}])
def test_whatever_is_missing_comes_back_the_same(model, tmp_path, whole, missing):
    folder = generate(model, tmp_path, source())
    for index in missing:
        (folder / f"{index:04d}.png").unlink()
    untouched = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.png")}
    seen = Seen()
    assert generate(model, tmp_path, source(), watcher=seen) == folder
    assert contents(folder) == contents(whole)
    assert seen.phases == [("class pictures", 6, 6 - len(missing))]
    assert seen.done == list(range(7 - len(missing), 7))
    assert untouched == {name: (folder / name).stat().st_mtime_ns for name in untouched}


def test_stopped_between_groups_and_gone_on(model, tmp_path, whole):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise Stopped("asked to")

    with pytest.raises(Stopped):
        generate(model, tmp_path, source(), check=check)
    assert contents(generate(model, tmp_path, source())) == contents(whole)


def test_a_complete_folder_draws_nothing(model, tmp_path, monkeypatch):
    folder = generate(model, tmp_path, source())
    monkeypatch.setattr("tuner.sampling.paint", lambda *_a, **_k: pytest.fail("drew again"))
    assert generate(model, tmp_path, source()) == folder


def test_own_pictures_count(model, tmp_path):
    assert len(list(generate(model, tmp_path, source(), have=4).glob("*.png"))) == 2
    assert list(generate(model, tmp_path, source(), have=9).glob("*.png")) == []


def test_another_number_takes_over_what_is_drawn(model, tmp_path, whole, monkeypatch):
    generate(model, tmp_path, source(8))
    monkeypatch.setattr("tuner.sampling.paint", lambda *_a, **_k: pytest.fail("drew again"))
    fewer = generate(model, tmp_path, source(4))
    assert sorted(p.name for p in fewer.glob("*.png")) == [f"{n:04d}.png" for n in range(4)]
    assert all((fewer / f"{n:04d}.png").read_bytes() == (whole / f"{n:04d}.png").read_bytes() for n in range(4))


def test_a_damaged_picture_is_told_and_drawn_again(model, tmp_path, whole):
    folder = generate(model, tmp_path, source())
    for index, content in ((1, b""), (4, (folder / "0004.png").read_bytes()[:-40])):
        (folder / f"{index:04d}.png").write_bytes(content)
    seen = Seen()
    generate(model, tmp_path, source(), watcher=seen)
    assert contents(folder) == contents(whole)
    assert [line.partition(":")[0].rpartition("/")[2] for line in seen.lines] == ["0001.png", "0004.png"]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"caption": "a photo of a cat"}, {"steps": 3}, {"guidance": 4.0}],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_has_a_folder_of_its_own(model, tmp_path, whole, change):
    other = PriorSource(**{"caption": "a photo of a dog", "generate": 2, "steps": 2, "guidance": 3.0, **change})
    folder = generate(model, tmp_path, other)
    assert folder.parent.name != whole.parent.name
    assert (folder / "0000.png").read_bytes() != (whole / "0000.png").read_bytes()


def test_size_and_base_have_folders_of_their_own(model, tmp_path, whole):
    assert generate(model, tmp_path, source(1), size=(48, 64)).parent.name != whole.parent.name
    skipping = load_sd15("toybox", clip_skip=2)
    assert generate(skipping, tmp_path, source(1)).parent.name != whole.parent.name


def test_moves_no_random_generator(model, tmp_path):
    torch.manual_seed(1)
    state, python, theirs = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    generate(model, tmp_path, source(2))
    assert torch.equal(state, torch.get_rng_state())
    assert python == random.getstate()
    assert (theirs == np.random.get_state()[1]).all()


CHILD = """
import os, signal, sys, torch
from pathlib import Path
from tuner.backbones import Backbone
from tuner.data import prior
from tuner.data.sources import PriorSource
from tuner.objectives import Objective
from tuner.watch import Watcher
model = Backbone.read({"name": "sd15", "model": "toybox"}).load(device=torch.device("cpu"), dtype=torch.float32)
class Killer(Watcher):
    def progress(self, done):
        if done == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
prior.generate(model, PriorSource(caption="a photo of a dog", generate=6, steps=2, guidance=3.0), (64, 64), 0,
    Path(sys.argv[1]), objective=Objective.read("ddpm").bind(model.scheduler, torch.device("cpu")), watcher=Killer())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills with SIGKILL")
@pytest.mark.parametrize("at", [1, 5])
def test_killed_between_pictures_and_gone_on(model, tmp_path, whole, at):
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), str(at)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    (left,) = tmp_path.glob("priors/*/*")
    assert len(list(left.glob("*.png"))) == at
    seen = Seen()
    folder = generate(model, tmp_path, source(), watcher=seen)
    assert folder == left
    assert seen.phases == [("class pictures", 6, at)]
    assert seen.lines == []
    assert contents(folder) == contents(whole)
