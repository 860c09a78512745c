"""`tuner grid` on adapters of every kind: each cell is the picture that drawing it alone gives, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from outcomes import trained
from PIL import Image

from tuner import drawing, grid_drawing, toybox
from tuner.cli import call
from tuner.drawing import Drawing, Strong
from tuner.errors import UsageError
from tuner.formats import load
from tuner.grid_axes import parse_axis
from tuner.grids import Fixed, plan
from tuner.sampling import Shot
from tuner.watch import Watcher

pytestmark = pytest.mark.xdist_group("outcomes")
PROMPT = "a photo of <toy>"


def pixels(picture) -> bytes:
    return np.asarray(picture.convert("RGB")).tobytes()


def alone(path: Path | None, strength: float, shot: Shot) -> bytes:
    """The picture drawn by itself, everything loaded for it."""
    adapters = [Strong(path, strength)] if path else []
    planned = Drawing.plan(adapters, "toybox", "cpu", backbone="sd15")
    return pixels(next(iter(drawing.draw(planned, [shot], Watcher()))))


def drawn(kind, x, y=None, **fixed):
    settings = {"prompt": PROMPT, "steps": 2, "guidance": 3.0, "size": (32, 32)} | fixed
    across, down = parse_axis(x), parse_axis(y, "--y") if y else None
    varied = {across.name, *([down.name] if down else [])}
    said = Fixed(**{key: value for key, value in settings.items() if key not in varied})
    grid = plan(across, down, said, adapter=trained(kind), device="cpu")
    return {(cell.row, cell.column): (cell, pixels(picture)) for cell, picture in grid_drawing.draw(grid, Watcher())}


KINDS = [
    "lora",
    pytest.param("hypernetwork", marks=pytest.mark.slow),
    pytest.param("pivotal", marks=pytest.mark.slow),
    pytest.param("full", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_cell_is_the_picture_drawn_alone(kind):
    cells = drawn(kind, "strength=0.5,0,1.5", "checkpoint=1,final")
    assert len(cells) == 6
    for cell, seen in cells.values():
        step = cell.weights.checkpoint
        path = trained(kind) / ("adapter" if step in ("final", None) else f"checkpoints/{step}/adapter")
        assert seen == alone(path if cell.weights.strength else None, cell.weights.strength, cell.shot)
    assert len({seen for _, seen in cells.values()}) == 5  # only the base is there twice


def test_strength_0_is_the_base_for_every_seed_and_step():
    cells = drawn("lora", "strength=1,0", "seed=0,7,8")
    for row in range(3):
        cell, seen = cells[row, 1]
        assert seen == alone(None, 0.0, cell.shot)
        assert cell.adapters == ()
        assert cells[row, 0][1] != seen
    assert cells[1, 1][0].shot.seed == cells[1, 0][0].shot.seed == 7


def test_everything_else_varies_too_and_in_its_place():
    cells = drawn("lora", f"prompt={PROMPT}|a house, red", "guidance=1,4")
    assert [cell.shot.prompt for (row, _), (cell, _) in sorted(cells.items()) if row == 0] == [PROMPT, "a house, red"]
    assert len({seen for _, seen in cells.values()}) == 4
    steps = drawn("lora", "steps=1,3")
    assert [cell.shot.steps for cell, _ in steps.values()] == [1, 3]
    for cell, seen in (*cells.values(), *steps.values()):
        assert seen == alone(trained("lora"), 1.0, cell.shot)


def test_base_and_adapter_are_loaded_as_seldom_as_can_be(monkeypatch):
    bases, adapters = [], []
    load_base, put_in = drawing.load, load.put_in
    monkeypatch.setattr(drawing, "load", lambda *given: bases.append(1) or load_base(*given))
    monkeypatch.setattr(load, "put_in", lambda *given: adapters.append(given[2]) or put_in(*given))
    drawn("lora", "strength=0,0.5,1,1.5", "checkpoint=1,2,final")
    assert len(bases) == 1
    assert adapters == [0.5] * 3


def test_equal_cells_are_drawn_once(monkeypatch):
    from tuner import sampling

    painted, paint = [], sampling.paint
    monkeypatch.setattr(sampling, "paint", lambda model, shots: painted.extend(shots) or paint(model, shots))
    assert len(drawn("lora", "strength=0,1", "checkpoint=1,2,final")) == 6
    assert len(painted) == 4


def test_a_word_is_there_or_not():
    cells = drawn("word", "strength=0,1")
    assert cells[0, 0][1] == alone(None, 0.0, cells[0, 0][0].shot)
    assert cells[0, 1][1] == alone(trained("word"), 1.0, cells[0, 1][0].shot)
    with pytest.raises(UsageError, match=r"textual inversion.*no strength such as 0\.5|no strength such as 0\.5"):
        drawn("word", "strength=0,0.5")


@pytest.mark.slow
def test_a_whole_model_without_its_base_is_drawn_as_it_is(tmp_path):
    folder = shutil.copytree(trained("full") / "adapter", tmp_path / "handed-over")
    grid = plan(parse_axis("seed=1,2"), None, Fixed(PROMPT, steps=2, size=(32, 32)), adapter=folder)
    for cell, picture in grid_drawing.draw(grid, Watcher()):
        planned = Drawing.plan([Strong(folder, 1.0)], None, "cpu")
        assert pixels(picture) == pixels(next(iter(drawing.draw(planned, [cell.shot], Watcher()))))
    with pytest.raises(UsageError, match="no strength by itself"):
        plan(parse_axis("strength=0.5"), None, Fixed(PROMPT), adapter=folder)


def test_the_base_is_the_runs_whichever_of_its_places_is_named(tmp_path):
    """A base on this machine has no name that the files could tell."""
    run = tmp_path / "mine"
    shutil.copytree(trained(), run)
    resolved = (run / "resolved.yaml").read_text()
    (run / "resolved.yaml").write_text(resolved.replace("model: toybox", f"model: {toybox.folder('sd15')}"))
    places = {run: "mine:1", run / "adapter": "mine:1", run / "checkpoints" / "1" / "adapter": "mine@1:1",
              run / "adapter" / "mine.safetensors": "mine.safetensors:1"}  # fmt: skip
    (run / "adapter" / "lora.safetensors").rename(run / "adapter" / "mine.safetensors")
    for place, name in places.items():
        grid = plan(parse_axis("seed=1"), None, Fixed(PROMPT), adapter=place)
        assert grid.base == str(toybox.folder("sd15"))
        assert grid.cells[0].adapters == (name,)
        assert str(tmp_path) not in json.dumps(grid.facts())


@pytest.fixture
def say(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        assert call(["grid", *map(str, words)]) == code
        return capsys.readouterr()

    return run


WORDS = ["--adapter", trained, PROMPT, "--steps", 2, "--size", 32, "--device", "cpu"]


def words(*more):
    return [str(word()) if callable(word) else word for word in (*WORDS, *more)]


def test_the_command_leaves_cells_an_index_and_a_sheet(say, tmp_path):
    said = say(*words("--x", "strength=0,1", "--y", "seed=0,1", "--out", "g", "--json"))
    told = json.loads(said.out)
    assert "drawing" in said.err
    index = json.loads((tmp_path / "g" / "grid.json").read_text())
    assert index == {key: value for key, value in told.items() if key != "out"}
    assert [index["axes"][side]["labels"] for side in "xy"] == [["strength 0", "strength 1"], ["seed 0", "seed 1"]]
    assert all(cell["drawn"] for cell in index["cells"])
    for cell in index["cells"]:
        with Image.open(tmp_path / "g" / cell["file"]) as picture:
            assert picture.size == (32, 32)
            text = picture.text["parameters"]
            assert f"Seed: {cell['seed']}" in text
            assert ("Adapters: lora:1" in text) == (cell["strength"] == 1)
    with Image.open(tmp_path / "g" / index["sheet"]) as sheet:
        assert sheet.width > 64
    assert str(trained().parent) not in json.dumps(index)
    assert "holds a grid already" in say(*words("--x", "seed=3", "--out", "g"), code=2).err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "give --x"),
        (["--x", "colour=red"], "no axis 'colour'"),
        (["--x", "strength="], "has no values"),
        (["--x", "strength=2.5"], "outside 0 to 2"),
        (["--x", f"seed={','.join(map(str, range(401)))}"], "401 cells"),
        (["--x", "seed=1", "--y", "seed=2"], "both"),
        (["--x", "seed=1", "--seed", "3"], "varies the seed"),
        (["--x", "steps=1"], "varies the steps"),
        (["--x", "prompt=a dog"], "varies the prompt"),
        (["--x", "guidance=1", "--guidance", "3"], "varies the guidance"),
        (["--x", "checkpoint=7"], "no adapter of step 7"),
        (["--x", "checkpoint=7"], "1, 2, final"),
        (["--x", "seed=1", "--size", "33"], "not a multiple of"),
        (["--x", "seed=1", "--device", "abacus"], "unknown device"),
        (["--x", "seed=1", "--base", "/nowhere/at/all", "--backbone", "sdxl"], "unknown backbone"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(say, tmp_path, monkeypatch, more, said):
    monkeypatch.setattr("tuner.drawing.load", lambda *_: pytest.fail("the base was loaded"))
    out = say(*words(*more), code=2)
    assert said in out.err
    assert "Traceback" not in out.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a dog", "--x", "strength=0,1"], "no adapter whose strength"),
        (["a dog", "--x", "seed=0,1"], "neither a base nor an adapter"),
        (["--base", "toybox", "--x", "seed=0,1"], "there is no prompt"),
        (["a dog", "--adapter", "nowhere", "--x", "checkpoint=1"], "not a run directory"),
        (["a dog", "--adapter", "nowhere:3", "--x", "seed=1"], "strength of 3 is outside"),
        (["a dog", "--adapter", "nowhere:1", "--x", "strength=1"], "one behind --adapter has no effect"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_missing_is_named(say, given, said):
    assert said in say(*given, code=2).err


def test_a_base_alone_makes_a_grid_of_seeds(say, tmp_path):
    say("a house", "--base", "toybox", "--x", "seed=0,1", "--steps", 1, "--size", 32, "--out", "g")
    assert {path.name for path in (tmp_path / "g").iterdir()} == {
        "000-000.png", "000-001.png", "grid.json", "grid.png"
    }  # fmt: skip
