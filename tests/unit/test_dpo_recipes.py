"""Recipes of preferences: what is planned, rehearsed, encoded and left out together."""

from __future__ import annotations

import pytest
from listener import Listener
from PIL import Image
from pydantic import ValidationError

from tuner import toybox
from tuner.data import prepared as data
from tuner.data.scan import Example
from tuner.planning import plan
from tuner.recipe import Recipe
from tuner.recipe_file import load_recipe
from tuner.tasks import Task
from tuner.tasks.dpo import DPO
from tuner.watch import Watcher


@pytest.fixture
def pairs(tmp_path):
    """Two pairs in buckets of their own; the rejected picture of the second has another shape."""
    sizes = {"chosen": [(128, 64), (64, 128)], "rejected": [(128, 64), (128, 64)]}
    for side, members in sizes.items():
        (tmp_path / side).mkdir()
        for i, size in enumerate(members):
            Image.new("RGB", size, (100 * i, 10 if side == "chosen" else 200, 0)).save(tmp_path / side / f"{i}.png")
    return tmp_path


def recipe(path, **changes):
    tree = {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": ["lora"],
        "task": "dpo",
        "data": {"resolution": 64, "bucket_step": 16, "pairs": {"path": str(path), "caption": "a thing"}},
        "train": {"steps": 10, "batch": 2},
    }
    return Recipe.model_validate(tree | changes)


def test_a_pair_is_one_unit_and_is_encoded_in_one_size(pairs):
    planned = plan(recipe(pairs))
    assert [(e.role, e.pictures, e.visits) for e in planned.exposures] == [("chosen", 2, 10.0), ("rejected", 2, 10.0)]
    assert len(planned.buckets) == 2
    assert planned.caches[0].encoded_before == 4
    text = str(planned)
    assert "a unit is 1 chosen + 1 rejected picture" in text
    assert "data.pairs: 2 pairs; captions: 2 from data.pairs.caption" in text
    assert "of two sizes, so the rejected picture is scaled and cut" in text


def test_what_is_planned_is_what_is_encoded(pairs, sd15_model):
    from tuner.data.cache import Cache
    from tuner.draws import Draws

    given = recipe(pairs)
    found = data.find(given, Watcher())
    ready = data.encode(given, found, sd15_model, Draws(0), Cache(), Watcher(), learns_text=False)
    assert ready.sizes["rejected"] == ready.sizes["chosen"]
    assert len(set(ready.sizes["chosen"].values())) == 2
    assert list(ready.order(Draws(0), batch=2, unit_count=2).roles) == ["chosen"]


def test_a_picture_that_cannot_be_read_takes_its_partner_along():
    def example(role, uid):
        return Example(uid, uid, f"{role}/{uid}", role, (64, 64), ("a",), 1, 1.0, bytes, "recipe")

    examples = {role: [example(role, uid) for uid in "abc"] for role in ("chosen", "rejected")}
    listener = Listener()
    data._leave_out(examples, {"rejected/b": "broken"}, {"rejected": "chosen"}, listener)
    assert {role: [e.uid for e in members] for role, members in examples.items()} == {
        "chosen": ["a", "c"],
        "rejected": ["a", "c"],
    }
    assert listener.warned == [
        "rejected/b: left out: broken",
        "chosen/b: left out: the other picture of its pair is",
    ]


def test_the_rehearsal_has_a_preset_of_its_own():
    read = load_recipe("dpo", rehearse=True)
    assert read.train.lr == DPO.rehearsal["train.lr"]
    assert read.train.steps == DPO.rehearsal["train.steps"]
    assert read.data.model_dump()["pairs"][0]["path"] == str(toybox.PICTURES / "pairs")
    assert load_recipe("dpo", ["train.lr=1e-4"], rehearse=True).train.lr == 1e-4
    assert load_recipe("dpo", ["train.steps=20"], rehearse=True).train.steps == 20
    full = load_recipe("dpo", ["adapters=[full]"], rehearse=True)
    assert full.train.lr < DPO.rehearsal["train.lr"], "the adapter asks for less"
    assert load_recipe("lora", rehearse=True).train.lr > DPO.rehearsal["train.lr"]


@pytest.mark.parametrize("beta", [0, -1, 2e6])
def test_beta_has_bounds(beta):
    with pytest.raises(ValidationError):
        Task.read({"name": "dpo", "beta": beta})


def test_keys_of_other_tasks_have_no_effect(pairs):
    with pytest.raises(ValidationError) as caught:
        recipe(pairs, data={"images": {"path": "x"}, "resolution": 64, "bucket_step": 16})
    text = str(caught.value)
    assert "has no effect on task dpo, which reads pairs" in text
    assert "task dpo needs data.pairs" in text
