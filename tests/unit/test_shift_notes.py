"""A shift that is not the base's own is told, before a run and in it."""

from __future__ import annotations

import pytest

from tuner.objectives import Objective
from tuner.objectives.flow_levels import ConstantShift, DynamicShift, shift_of
from tuner.planning import plan
from tuner.recipe import Recipe

DYNAMIC = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def flow(shift) -> Objective:
    return Objective.read({"name": "rectified_flow", "shift": shift})


@pytest.mark.parametrize(
    ("shift", "scheduler"),
    [
        ("constant", {"shift": 3.0, "use_dynamic_shifting": False}),
        ({"name": "constant", "value": 2.0}, {"shift": 2}),
        ("dynamic", DYNAMIC),
        ("dynamic", {"use_dynamic_shifting": True}),
        ("constant", {}),  # a scheduler that says nothing contradicts nothing
        ("constant", {"shift": "three"}),
    ],
)
def test_the_bases_own_shift_is_no_news(shift, scheduler):
    assert flow(shift).notes(scheduler) == ()


@pytest.mark.parametrize(
    ("shift", "scheduler", "words"),
    [
        ("constant", {"shift": 2.0}, "constant (value 3), but the base's own scheduler says constant (value 2)"),
        ("resolution", {"shift": 3.0}, "resolution (base_tokens 256), but"),
        ("dynamic", {"shift": 3.0}, "says constant (value 3)"),
        ("constant", DYNAMIC, "says dynamic (base_shift 0.5, max_shift 1.15, base_tokens 256, max_tokens 4096)"),
        ({"name": "dynamic", "max_shift": 2.0}, DYNAMIC, "max_shift 2"),
    ],
)
def test_another_shift_is_one_note(shift, scheduler, words):
    (note,) = flow(shift).notes(scheduler)
    assert words in note


def test_odd_configurations_are_read_as_far_as_they_go():
    assert shift_of({"shift": 1000}) == ConstantShift.model_construct(value=1000.0)
    assert shift_of({"use_dynamic_shifting": True, "base_shift": None}) == DynamicShift()
    assert shift_of({"use_dynamic_shifting": False}) is None


def test_a_plan_tells_it(sd35_folder, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    tree = {
        "backbone": {"name": "sd35", "model": str(sd35_folder)},
        "adapters": "lora",
        "task": "finetune",
        "objective": {"name": "rectified_flow", "shift": {"name": "constant", "value": 1.5}},
        "data": {"resolution": 64, "bucket_step": 16, "images": {"path": str(tmp_path), "caption": "a dog"}},
        "train": {"steps": 1},
    }
    assert "constant (value 1.5), but the base's own scheduler says constant (value 3)" in str(plan(_read(tree)))
    tree["objective"]["shift"]["value"] = 3.0
    assert "scheduler says" not in str(plan(_read(tree)))
    tree["backbone"]["model"] = "stabilityai/stable-diffusion-3.5-large"  # as published
    assert "scheduler says" not in str(plan(_read(tree)))


def _read(tree) -> Recipe:
    return Recipe.model_validate(tree)
