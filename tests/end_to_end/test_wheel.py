"""What a wheel brings: an install from it works like a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel's content in a folder of its own."""
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(place / "site")
    return place / "site"


def test_it_holds_recipes_data_and_types(installed):
    for name in ("py.typed", "recipes/dreambooth_lora.yaml", "recipes/lora.yaml", "backbones/data/sd15/NOTICE.txt"):
        assert (installed / "tuner" / name).is_file(), name
    assert (installed / "webui" / "__init__.py").is_file()
    assert not (installed / "tests").exists()
    for source in (ROOT / "tuner").rglob("*"):
        if source.is_file() and "__pycache__" not in source.parts:
            assert (installed / source.relative_to(ROOT)).is_file(), source


def test_it_is_small(installed):
    """The models and pictures of the toybox are nearly all of it."""
    files = [path for path in installed.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 29_000_000
    models = [path for path in files if "models" in path.parts]
    assert {path.name for path in models} >= {"model_index.json", "README.md", "figures.json"}
    assert 20_000_000 <= sum(path.stat().st_size for path in models) <= 25_000_000


def test_shipped_recipes_are_found_by_name(installed, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import tuner; print(tuner.__file__); print(tuner.load_recipe('lora', rehearse=True).task.key)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    )
    where, task = done.stdout.split()
    assert where.startswith(str(installed))
    assert task == "finetune"


def test_no_hint_names_a_stranger_of_the_same_name():
    """`tuner` on the package index is somebody else's; this one is diffusion-tuner."""
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("tuner/**/*.py"),
        *ROOT.glob("recipes/*.yaml"),
    ]:
        assert "pip install tuner" not in path.read_text(), path
        assert "pip install 'tuner" not in path.read_text(), path
