"""Runs that teach a word: what their files hold, where a pivot lies, and what going on may change."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import pytest
import torch
from listener import Listener
from safetensors.torch import load_file

import tuner
from tuner import toybox
from tuner.errors import UsageError
from tuner.formats.inspect import inspect_file
from tuner.recipe import Recipe

TOKEN = "<toy>"


def tree(adapters, steps=4, **train) -> dict:
    return {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": adapters,
        "task": "finetune",
        "data": {
            "resolution": 32,
            "bucket_step": 16,
            "images": {"path": str(toybox.pictures()), "caption": TOKEN, "templates": "object"},
        },
        "train": {"steps": steps, "lr": 1e-2, "device": "cpu", "precision": "fp32", **train},
        "sample": {"every": 2, "prompts": [f"a photo of {TOKEN}"], "steps": 2, "size": 32},
        "save": {"every": 1, "keep": 100},
    }


def word(**settings) -> dict:
    return {"name": "textual_inversion", "token": TOKEN, "init": "dog", **settings}


def pivotal(until, steps) -> Recipe:
    return Recipe.model_validate(tree([word(until=until, vectors=2), {"name": "lora", "rank": 2}], steps))


def saved(run, steps):
    """The word's rows and the LoRA's tensors after each step, as the files of that step hold them."""
    folders = [run / "checkpoints" / str(step) / "adapter" for step in range(1, steps + 1)]
    words = [
        next(path for path in folder.glob("*.safetensors") if set(load_file(path)) == {TOKEN}) for folder in folders
    ]
    loras = [load_file(folder / "pytorch_lora_weights.safetensors") for folder in folders]
    return [load_file(path)[TOKEN] for path in words], loras


def moves(rows) -> list[bool]:
    return [not torch.equal(a, b) for a, b in pairwise(rows)]


@pytest.fixture(scope="module")
def pivoted(tmp_path_factory):
    """A finished pivotal run of 4 steps whose pivot falls between two steps."""
    run = tmp_path_factory.mktemp("pivotal") / "toy"
    tuner.run(pivotal(0.6, 4), run_dir=run)
    return run


def test_rows_stop_exactly_at_the_pivot(pivoted):
    rows, loras = saved(pivoted, 4)
    assert moves(rows) == [step < 0.6 * 4 for step in range(1, 4)] == [True, True, False]
    for a, b in pairwise(loras):
        assert any(not torch.equal(a[name], b[name]) for name in a), "the LoRA goes on"


def test_both_files_are_there_and_load_together(pivoted):
    names = {path.name for path in (pivoted / "adapter").iterdir()}
    # the run is called like the word, which steps aside for the LoRA's file of the run's name
    assert names >= {"toy_word.safetensors", "toy.safetensors", "pytorch_lora_weights.safetensors", "README.md"}
    told = inspect_file(pivoted)
    assert [told["kind"], *(other["kind"] for other in told["beside"])] == ["textual_inversion", "lora"]
    assert set(load_file(pivoted / "adapter/toy_word.safetensors")) == {TOKEN}
    card = (pivoted / "adapter/README.md").read_text()
    assert "load_textual_inversion" in card
    assert "load_lora_weights" in card
    assert "- textual_inversion" in card
    assert "- lora" in card


def test_a_run_with_a_pivot_cannot_be_made_longer(pivoted):
    with pytest.raises(UsageError, match="cannot be made longer: the pivot of its textual_inversion"):
        tuner.run(pivotal(0.6, 6), run_dir=pivoted)


def test_nor_can_one_that_is_not_finished(pivoted, tmp_path):
    """Its state would be that of another pivot."""
    run = tmp_path / "toy"
    shutil.copytree(pivoted, run)
    for step in ("3", "4"):
        shutil.rmtree(run / "checkpoints" / step)
    shutil.rmtree(run / "adapter")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "stopped", "step": 2}))
    with pytest.raises(UsageError, match="the pivot of its textual_inversion") as fault:
        tuner.run(pivotal(0.6, 6), run_dir=run)
    assert "train.steps: 4 -> 6" in fault.value.message


@pytest.mark.slow
@pytest.mark.parametrize("until", [0.25, 0.5, 0.75])
def test_every_pivot_is_exact(tmp_path, until):
    tuner.run(pivotal(until, 8), run_dir=tmp_path / "run")
    moved = moves(saved(tmp_path / "run", 8)[0])
    assert moved == [step < until * 8 for step in range(1, 8)]


def test_a_word_alone_can_go_on_where_it_was_made_longer(tmp_path):
    adapters = [word(vectors=2, length="vocabulary")]
    short, grown = (Recipe.model_validate(tree(adapters, steps)) for steps in (2, 3))
    tuner.run(short, run_dir=tmp_path / "a")
    tuner.run(grown, run_dir=tmp_path / "a")
    tuner.run(grown, run_dir=tmp_path / "b")
    one, two = (load_file(tmp_path / run / "adapter/toy.safetensors")[TOKEN] for run in "ab")
    assert torch.equal(one, two)
    table = load_file(toybox.folder("sd15") / "text_encoder/model.safetensors")
    vocabulary = next(t for name, t in table.items() if name.endswith("token_embedding.weight"))
    assert torch.allclose(one.norm(dim=-1), vocabulary.float().norm(dim=-1).mean().expand(2), rtol=1e-5)
    assert (tmp_path / "a/samples/2/0.png").is_file()
    assert (tmp_path / "a/adapter/toy.safetensors").stat().st_size <= 100_000


def test_what_a_long_word_pushes_out_of_a_caption_is_told(tmp_path):
    """The word is one piece in the caption, and as many as it has vectors before the encoder."""
    given = tree(
        [word(vectors=64)],
        1,
    )
    given["data"]["images"] |= {"templates": None, "caption": f"{TOKEN} on grass " + "and a dog " * 4 + "at night"}
    del given["sample"]
    heard = Listener()
    tuner.run(Recipe.model_validate(given), run_dir=tmp_path / "run", watchers=[heard])
    told = [line for line in heard.warned if "longer than the text encoder reads" in line or "loses" in line]
    assert len(told) == 2
    assert "loses" in told[1] and told[1].rstrip("'").endswith("at night")
