"""Settings that would do nothing in a run of this length are refused, and those that would do little are named."""

from __future__ import annotations

import pytest

from tuner import planning
from tuner.planning.length import length
from tuner.planning.settings import advice, idle
from tuner.recipe_file import read_recipe
from tuner.sections import Train


def told(units: int = 40, **train) -> tuple[list[str], list[str]]:
    settings = Train(**{"steps": 100, **train})
    return idle(settings, length(settings, units)), advice(settings, length(settings, units))


def test_ordinary_settings_are_passed_over():
    assert told() == ([], [])
    assert told(batch=4, accumulate=10) == ([], [])
    assert told(schedule={"name": "cosine", "warmup": 99}, ema={"decay": 0.97}) == ([], [])


def test_an_average_that_never_moves_is_refused():
    assert told(ema={"decay": 0.5, "every": 100})[0] == []
    refused, _ = told(ema={"decay": 0.5, "every": 101})
    assert "every 101 steps and the run has 100" in refused[0]
    by_epochs, _ = told(steps=None, epochs=2, ema={"decay": 0.5, "every": 81})
    assert "the run has 80" in by_epochs[0]


@pytest.mark.parametrize(("decay", "every", "share"), [(0.99, 100, "99%"), (0.99, 1, "37%"), (0.9, 10, "35%")])
def test_an_average_that_hardly_moves_is_named(decay, every, share):
    refused, named = told(ema={"decay": decay, "every": every})
    assert not refused
    assert f"still holds {share} of what the run began with" in named[0]


def test_a_warm_up_that_does_not_end_is_named():
    _, named = told(steps=500, lr=1e-4, schedule={"name": "constant", "warmup": 1000})
    assert "gets no further than 5e-05, not to 0.0001" in named[0]


def test_a_step_of_more_units_than_there_are_is_named():
    _, named = told(units=20, batch=8, accumulate=512)
    assert "4,096 units" in named[0]
    assert "an epoch has 20" in named[0]
    assert told(units=4096, batch=8, accumulate=512)[1] == []


def test_the_plan_shows_them_and_refuses():
    from tuner import toybox

    text = (
        "backbone: {name: sd15, model: toybox}\nadapters: lora\ntask: finetune\n"
        f"data: {{resolution: 64, images: {{path: {toybox.pictures()}, caption: a dog}}}}\n"
        "train: {steps: 9, accumulate: 512, ema: {every: 10}}\n"
    )
    plan = planning.plan(read_recipe(text, "r.yaml"))
    assert "note: a step asks for 512 units" in str(plan)
    assert "This run would be refused:\n  train.ema.every" in str(plan)
    assert plan.to_json()["advice"]
