"""What no file can be called is refused when the recipe is read, with its line."""

from __future__ import annotations

import pytest

from tuner.errors import RecipeError
from tuner.recipe_file import read_text

LONG, ENDLESS = "x" * 256, "x/" * 2049
BASE = """\
backbone: {{name: sd15, model: {model}}}
adapters: [{{name: lora{init}}}]
task: finetune
data: {{images: {{path: {path}}}}}
train: {{steps: 1}}
"""


def recipe(model="toybox", init="", path="photos"):
    return BASE.format(model=model, init=init, path=path)


@pytest.mark.parametrize("text", [LONG, ENDLESS, "~nobody-is-called-this/x"], ids=["name", "path", "user"])
@pytest.mark.parametrize(
    ("key", "line"), [("backbone.model", 1), ("init_from", 2), ("images.path", 4)], ids=["model", "init", "images"]
)
def test_it_is_refused_at_its_line(text, key, line):
    made = {1: {"model": text}, 2: {"init": f", init_from: {text}"}, 4: {"path": text}}[line]
    with pytest.raises(RecipeError) as caught:
        read_text(recipe(**made), "recipe")
    assert f"recipe:{line}:" in str(caught.value)
    assert key in str(caught.value)


def test_what_can_be_called_so_is_taken():
    name = "x" * 255
    assert read_text(recipe(path=f"~/{name}"), "recipe").recipe.sources["images"][0].path == f"~/{name}"


def test_a_status_that_is_no_file_or_no_number_counts_as_none(tmp_path):
    import os

    from tuner.status import read_status

    os.mkfifo(tmp_path / "pipe")
    assert read_status(tmp_path / "pipe") is None
    (tmp_path / "status.json").write_text(
        '{"run": "x", "state": "done", "best": {"step": Infinity, "validation_loss": 1}}'
    )
    assert read_status(tmp_path / "status.json") is None
