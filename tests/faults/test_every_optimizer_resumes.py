"""A run that is killed and goes on is bitwise the run that nobody disturbed, with every optimizer and every schedule."""

from __future__ import annotations

import importlib.util

import pytest
from kill_harness import NO_PROOF, Killing, arrays, recipe

from tuner.optim.optimizers import Optimizer
from tuner.optim.schedules import Schedule

PAIRS = {
    "adamw": ("cosine_with_restarts", {"train.schedule.cycles": 2}),
    "adamw8bit": ("cosine", {"adapters.0.rank": 64}),
    "adafactor": ("linear", {"train.schedule.warmup": 2}),
    "lion": ("rex", {"train.lr": 2e-3}),
    "prodigy": ("polynomial", {"train.lr": 1.0, "adapters.0.text_encoder_lr": 0.5, "train.optimizer.d0": 1e-4}),
    "schedule_free": ("constant", {"train.schedule.warmup": 3, "train.ema": None}),
}
"""Each optimizer with a schedule, and what else such a recipe says; its text encoder trains at a rate of its own."""


def tree(pictures, name: str):
    schedule, changes = PAIRS[name]
    return recipe(
        pictures,
        **{
            "train.optimizer": {"name": name},
            "train.schedule": {"name": schedule},
            "train.steps": 7,
            "task": "finetune",
            "data.images": {"path": str(pictures), "caption": "a photo of sks dog"},
            "data.instance": None,
            "data.prior": None,
            "validation": {"every": 4, "hold_out": 0.2},
            "sample.every": 7,
            **changes,
        },
    )


def test_every_one_is_there():
    assert set(PAIRS) == set(Optimizer.family)
    assert {schedule for schedule, _ in PAIRS.values()} == set(Schedule.family)


@pytest.mark.parametrize("name", PAIRS)
def test_killed_and_resumed_is_bitwise_the_same(name, fork_server, shared_cache, drawn_pictures, tmp_path):
    if name == "adamw8bit" and not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes (extra cuda) is not installed")
    killing = Killing(fork_server, tree(drawn_pictures, name), tmp_path, shared_cache, hooks=NO_PROOF)
    state = arrays(killing.reference / "run" / "checkpoints" / "4" / "optimizer.safetensors")
    assert REMEMBERED[name] <= {key.partition(".")[2] for key in state}
    story = killing.at("killed", {"group": "steps", "step": 5, "delay_s": 0.0})
    assert story.places == [("steps", 5)]
    assert story.good, (story.unequal[:10], story.leftovers)
    for value in ("metric 4 validation_loss", "sample 7/0.png", "metric 6 lr", "metric 6 lr_text_encoder"):
        assert value in killing.expected
    assert ("metric 6 effective_lr" in killing.expected) == (name == "prodigy")


REMEMBERED = {
    "adamw": {"exp_avg", "exp_avg_sq", "step"},
    "adamw8bit": {"exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale"},
    "adafactor": {"row_var", "col_var", "calls"},
    "lion": {"exp_avg", "step", "calls", "since"},
    "prodigy": {"exp_avg", "exp_avg_sq", "s", "start", "d", "d_max", "numerator"},
    "schedule_free": {"z", "exp_avg_sq", "lr_max", "weight_sum"},
}
"""Of what a checkpoint holds of each."""
