"""What a recipe may ask of an optimizer and a schedule: names of other tools, learning rates, combinations."""

from __future__ import annotations

import pytest

from tuner.errors import RecipeError
from tuner.recipe_file import read_recipe

TEXT = """
backbone: {{name: sd15, model: toybox}}
adapters: {adapters}
task: finetune
data: {{resolution: 64, images: {{path: {path}, caption: a dog}}}}
train: {{steps: 9, {train}}}
"""


@pytest.fixture(scope="module")
def pictures():
    from tuner import toybox

    return toybox.pictures()


def read(pictures, train: str, adapters: str = "lora", **options):
    return read_recipe(TEXT.format(train=train, adapters=adapters, path=pictures), "r.yaml", **options)


def refused(pictures, train: str, adapters: str = "lora", **options) -> str:
    with pytest.raises(RecipeError) as caught:
        read(pictures, train, adapters, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("optimizer: AdamW8bit", "adamw8bit"),
        ("optimizer: PagedAdamW8bit", "adamw8bit"),
        ("optimizer: AdamWScheduleFree", "schedule_free"),
        ("optimizer: schedulefree", "schedule_free"),
        ("optimizer: prodigyopt", "prodigy"),
        ("optimizer: {name: Prodigy}", "prodigy"),
        ("optimizer: DAdaptAdam", "prodigy"),
        ("optimizer: lion8bit", "lion"),
        ("optimizer: AdaFactor", "adafactor"),
        ("optimizer: AdamW", "adamw"),
        ("schedule: constant_with_warmup", "constant"),
        ("schedule: cosine_restarts", "cosine_with_restarts"),
        ("schedule: {name: CosineAnnealingWarmRestarts}", "cosine_with_restarts"),
        ("schedule: REX", "rex"),
        ("schedule: polynomial_decay", "polynomial"),
        ("schedule: COSINE", "cosine"),
    ],
)
def test_a_name_of_another_tool_is_an_error_with_the_name_here(pictures, given, meant):
    assert f"did you mean '{meant}'?" in refused(pictures, given)


def test_a_name_that_nothing_is_like_lists_what_there_is(pictures):
    assert "there is adafactor, adamw, adamw8bit, lion, prodigy, schedule_free" in refused(pictures, "optimizer: sgd")


@pytest.mark.parametrize("train", ["optimizer: prodigy", "optimizer: prodigy, lr: 0.05", "optimizer: prodigy, lr: 50"])
def test_prodigy_wants_a_multiple_for_a_learning_rate(pictures, train):
    assert "train.lr: prodigy finds the learning rate itself" in refused(pictures, train)


def test_prodigy_wants_it_of_every_learning_rate(pictures):
    text = refused(pictures, "optimizer: prodigy, lr: 1", "{name: lora, text_encoder_lr: 5e-5}")
    assert "adapters.text_encoder_lr: prodigy finds" in text
    assert "so 5e-05 is far off" in text
    assert "train.lr" not in text
    read(pictures, "optimizer: prodigy, lr: 1", "{name: lora, text_encoder_lr: 0.5}")


def test_prodigy_is_refused_in_backward(pictures):
    text = refused(pictures, "optimizer: prodigy, lr: 1, optimizer_in_backward: true, max_grad_norm: null")
    assert "needs the gradients of all weights" in text


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "schedule_free"])
def test_the_others_are_not(pictures, name):
    read(pictures, f"optimizer: {name}, optimizer_in_backward: true, max_grad_norm: null")


@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine_with_restarts", "polynomial", "rex"])
def test_schedule_free_takes_no_schedule(pictures, schedule):
    text = refused(pictures, f"optimizer: schedule_free, schedule: {schedule}")
    assert f"train.schedule: schedule_free averages the weights in place of a schedule; {schedule}" in text


def test_schedule_free_may_warm_up_and_has_no_other_average(pictures):
    read(pictures, "optimizer: schedule_free, schedule: {name: constant, warmup: 3}")
    text = refused(pictures, "optimizer: schedule_free, ema: {decay: 0.9}")
    assert "train.ema: schedule_free's files hold an average" in text


@pytest.mark.parametrize("keys", ["betas: [0, 0.9]", "betas: [1, 0.9]", "betas: [0.9, 1]"])
def test_schedule_free_refuses_betas_that_lose_the_average(pictures, keys):
    assert "betas" in refused(pictures, f"optimizer: {{name: schedule_free, {keys}}}")


def test_a_run_with_a_schedule_of_its_whole_length_cannot_be_made_longer(pictures):
    for schedule in ("cosine_with_restarts", "polynomial", "rex"):
        assert f"follows a {schedule} schedule" in read(pictures, f"schedule: {schedule}").length_matters
    assert not read(pictures, "optimizer: schedule_free").length_matters


def rehearsed(pictures, train: str, overrides=()):
    return read(pictures, train, overrides=overrides, rehearse=True).train.lr


def test_a_rehearsal_takes_the_rate_that_the_optimizer_wants(pictures):
    usual = rehearsed(pictures, "lr: 1e-4")
    assert rehearsed(pictures, "lr: 1e-4, optimizer: adafactor") == usual
    assert rehearsed(pictures, "lr: 1e-4, optimizer: {name: lion}") < usual / 2
    assert rehearsed(pictures, "lr: 1e-4", ["train.optimizer=prodigy"]) == 1
    assert rehearsed(pictures, "optimizer: prodigy", ["train.lr=0.5"]) == 0.5


def test_what_each_remembers_is_what_the_plan_counts():
    import torch

    from tuner.optim.optimizers import Optimizer
    from tuner.types import ParamGroup

    for name in ("adamw", "lion", "schedule_free", "prodigy"):
        weight = torch.nn.Parameter(torch.randn(64, 64))
        weight.grad = torch.randn(64, 64)
        member = Optimizer.read(name)
        optimizer = member.build([ParamGroup("all", {"w": weight})], 1.0)
        optimizer.step()
        held = sum(value.numel() * value.element_size() for value in optimizer.state[weight].values())
        assert held / weight.numel() == pytest.approx(member.bytes_a_parameter, rel=0.01)


@pytest.mark.parametrize(
    ("train", "offered"),
    [
        ("optimizer: adamw", {"train.optimizer", "train.optimizer_in_backward"}),
        ("optimizer: schedule_free", {"train.optimizer", "train.optimizer_in_backward"}),
        ("optimizer: adafactor", {"train.optimizer_in_backward"}),
        ("optimizer: lion", {"train.optimizer_in_backward"}),
        ("optimizer: prodigy, lr: 1", set()),
    ],
)
def test_to_save_memory_no_optimizer_is_offered_whose_learning_rate_is_another(pictures, train, offered):
    from tuner.planning.cards import ladder

    keys = {key for way in ladder(read(pictures, train, "full")) for key in way}
    assert keys & {"train.optimizer", "train.optimizer_in_backward"} == offered
    assert "train.gradient_checkpointing" in keys
