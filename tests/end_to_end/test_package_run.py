"""The zip of a real run of every kind: its notes name files that are in it, and what is unpacked draws the same."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import pytest
from outcomes import trained

from tuner import drawing
from tuner.drawing import Drawing, Strong
from tuner.load_notes import TOOLS
from tuner.package import pack
from tuner.sampling import Shot
from tuner.watch import Watcher

pytestmark = pytest.mark.xdist_group("outcomes")
PLACES = {
    "lora": {"AUTOMATIC1111": "models/Lora", "Forge": "models/Lora", "ComfyUI": "models/loras", "InvokeAI": "manager"},
    "word": {"AUTOMATIC1111": "embeddings", "ComfyUI": "models/embeddings", "InvokeAI": "manager"},
    "pivotal": {"AUTOMATIC1111": "models/Lora", "ComfyUI": "models/embeddings", "InvokeAI": "manager"},
    "hypernetwork": {"AUTOMATIC1111": "--to a1111", "ComfyUI": "--to a1111"},
    "full": {"AUTOMATIC1111": "models/Stable-diffusion", "Forge": "models/Stable-diffusion",
             "ComfyUI": "models/checkpoints", "InvokeAI": "manager"},
}  # fmt: skip
KINDS = ["lora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in PLACES if kind != "lora")]


def picture(path) -> bytes:
    planned = Drawing.plan([Strong(path, 1.0)], None, "cpu")
    shot = Shot("a photo of <toy>", size=(32, 32), steps=1)
    return np.asarray(next(iter(drawing.draw(planned, [shot], Watcher())))).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_handed_over_draws_what_the_run_draws(kind, tmp_path):
    made = pack(trained(kind), Watcher(), out=tmp_path / "it.zip")
    with zipfile.ZipFile(made.file) as archive:
        archive.extractall(tmp_path / "there")
    folder = tmp_path / "there" / kind
    notes = (folder / "LOAD.txt").read_text()
    rows = re.findall(rf"^  ({'|'.join(TOOLS)}): (.+)\n    (.+)$", notes, re.MULTILINE)
    assert {tool for tool, _, _ in rows} >= {"diffusers", *PLACES[kind]}
    for _, file, _ in rows:
        assert (folder / file.removeprefix("the folder ")).exists(), file
    for tool, place in PLACES[kind].items():
        assert any(place in what for name, _, what in rows if name == tool), notes
    assert str(trained(kind).parent) not in notes
    assert picture(folder) == picture(trained(kind) / "adapter")
