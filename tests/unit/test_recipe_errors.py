"""Every mistake of a recipe at once, with its place, its key and what to do."""

from __future__ import annotations

import pytest

from tuner.errors import RecipeError
from tuner.recipe_file import read_recipe

GOOD = """\
backbone: {name: sd15, model: some/model}
adapters: [{name: lora, rank: 16}]
task: dreambooth
data:
  instance: {path: photos/, caption: a photo of sks dog}
  prior: {caption: a photo of a dog, generate: 200}
train: {steps: 800, lr: 1e-4}
"""


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read_recipe(text, "r.yaml", overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def test_the_good_one_is_read():
    recipe = read_recipe(GOOD, "r.yaml")
    assert recipe.train.lr == 1e-4
    assert recipe.data.instance[0].path == "photos/"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("steps: 800", "stpes: 800", "r.yaml:7:9: train.stpes: unknown key; did you mean 'steps'?"),
        ("rank: 16", "rnk: 16", "r.yaml:2:25: adapters.0.rnk: unknown key; did you mean 'rank'?"),
        ("[{name: lora, rank: 16}]", "{name: lora, rnk: 16}", "r.yaml:2:24: adapters.rnk: unknown key; did you mean 'rank'?"),
        ("path: photos/", "pth: photos/", "r.yaml:5:14: data.instance.pth: unknown key; did you mean 'path'?"),
        ("task: dreambooth", "task: dreamboth", "r.yaml:3:7: task: unknown task 'dreamboth'; did you mean 'dreambooth'?"),
        ("name: lora", "name: lara", "r.yaml:2:19: adapters.0.name: unknown adapter 'lara'; did you mean 'lora'?"),
        ("name: sd15, ", "", "r.yaml:1:1: backbone: this backbone has no `name`; there is sd15, sd35"),
        (", model: some/model", "", "r.yaml:1:1: backbone.model: is missing"),
        ("backbone: {name: sd15, model: some/model}", "", "r.yaml:2:1: backbone: is missing"),
        ("steps: 800", 'steps: "800"', "r.yaml:7:16: train.steps: must be a whole number, not text '800'; take the quotes (or the leading zero) away"),
        ("steps: 800", "steps: true", "r.yaml:7:16: train.steps: must be a whole number, not true"),
        ("steps: 800", "steps: 0", "r.yaml:7:16: train.steps: must be at least 1, not 0"),
        ("steps: 800", "steps: 8.5", "r.yaml:7:16: train.steps: must be a whole number, not 8.5"),
        ("steps: 800", "steps: 0800", "r.yaml:7:16: train.steps: must be a whole number, not text '0800'; take the quotes (or the leading zero) away"),
        ("lr: 1e-4", "lr: true", "r.yaml:7:25: train.lr: must be a number, not true"),
        ("lr: 1e-4", "lr: 1e-4x", "r.yaml:7:25: train.lr: must be a number, not text '1e-4x'"),
        ("lr: 1e-4", "lr: 0.0", "r.yaml:7:25: train.lr: must be more than 0, not 0"),
        ("lr: 1e-4", 'gradient_checkpointing: "False"', "r.yaml:7:45: train.gradient_checkpointing: must be true or false, not text 'False'"),
        ("lr: 1e-4", "gradient_checkpointing: yes", "r.yaml:7:45: train.gradient_checkpointing: must be true or false, not text 'yes'"),
        ("lr: 1e-4", "gradient_checkpointing: 1", "r.yaml:7:45: train.gradient_checkpointing: must be true or false, not 1"),
        ("lr: 1e-4", "precision: fp61", "r.yaml:7:32: train.precision: must be one of auto, fp32, bf16, fp16, not text 'fp61'; did you mean 'fp16'?"),
        ("caption: a photo of sks dog", "caption: 7", "r.yaml:5:38: data.instance.caption: must be text, not 7; put it in quotes"),
        ("rank: 16", "where: atention", "r.yaml:2:32: adapters.0.where: must be one of cross_attention, attention, attention_mlp, all_linear, context_kv, not text 'atention'; did you mean 'attention'?"),
        ("rank: 16", "where: []", "r.yaml:2:25: adapters.0.where: must not be empty"),
        ("[{name: lora, rank: 16}]", "[]", "r.yaml:2:1: adapters: must not be empty"),
        ("{steps: 800, lr: 1e-4}", "{lr: 1e-4}", "r.yaml:7:1: train: how long? give steps or epochs"),
        ("{steps: 800, lr: 1e-4}", "fast", "r.yaml:7:8: train: must be a mapping (a line for each key), not text 'fast'"),
        ("{steps: 800, lr: 1e-4}", "", "r.yaml:7:1: train: must be a mapping (a line for each key), not null"),
        ("steps: 800", "steps: 800, schedule: {name: cosine, warmpu: 1}", "r.yaml:7:46: train.schedule.warmpu: unknown key; did you mean 'warmup'?"),
        ("steps: 800", "steps: 800, optimizer: {name: adamw, betas: [0.9, x]}", "r.yaml:7:59: train.optimizer.betas.1: must be a number, not text 'x'"),
        ("caption: a photo of a dog, ", "", "r.yaml:6:3: data.prior: caption is missing: name the plain class, such as `a photo of a dog`"),
        ("prior: {caption: a photo of a dog, generate: 200}", "images: {path: x}", "r.yaml:6:3: data.images: has no effect on task dreambooth, which reads instance, prior"),
        ("  instance: {path: photos/, caption: a photo of sks dog}\n", "", "r.yaml:4:1: data: task dreambooth needs data.instance"),
        ("path: photos/", "path: photos/, split: train", "r.yaml:5:29: data.instance.split: has no effect without dataset"),
        ("task: dreambooth", "task: dreambooth\nsample: {every: {epohcs: 1}, prompts: [a]}", "r.yaml:4:18: sample.every.epohcs: unknown key; did you mean 'epochs'?"),
        ("task: dreambooth", "task: dreambooth\nsample: {every: often, prompts: [a]}", "r.yaml:4:17: sample.every: must be a number or a mapping, not text 'often'"),
        ("task: dreambooth", "task: dreambooth\nsample: {prompts: 3}", "r.yaml:4:19: sample.prompts: must be text, not 3; put it in quotes"),
        ("task: dreambooth", "task: dreambooth\nsample: {negative: ~}", 'r.yaml:4:10: sample.negative: must be text, not null; write "" for empty text'),
        ("task: dreambooth", "task: dreambooth\ntask: finetune", "r.yaml:4:1: task: is given twice, first on line 3; keep one"),
        ("rank: 16", "rank: &r 16", "r.yaml:2:31: adapters.0.rank: anchor '&r' is refused; put text in quotes"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_line(old, new, line):
    assert old in GOOD
    assert problems(GOOD.replace(old, new)).count(line) == 1, problems(GOOD.replace(old, new))


def test_every_mistake_at_once_in_the_order_of_the_file():
    text = GOOD.replace("rank: 16", "rnk: 16").replace("task: dreambooth", "task: dreamboth").replace("steps", "stpes")
    lines = problems(text.replace("generate: 200", "generate: *n"), "train.lr=fast", "nonsense")
    assert lines == [
        "r.yaml:2:25: adapters.0.rnk: unknown key; did you mean 'rank'?",
        "r.yaml:3:7: task: unknown task 'dreamboth'; did you mean 'dreambooth'?",
        "r.yaml:6:48: data.prior.generate: alias '*n' is refused; write the value out, or put text in quotes",
        "r.yaml:7:9: train.stpes: unknown key; did you mean 'steps'?",
        "override 'nonsense': must be key=value, such as train.steps=400",
        "override 'train.lr=fast': train.lr: must be a number, not text 'fast'",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "r.yaml:1:1: the file is empty"),
        ("# a comment", "r.yaml:1:1: the file is empty"),
        ("- a", "r.yaml:1:1: the file must be a mapping (a line for each key), not a single value or list"),
        ("a: [", "r.yaml:1:5: a bracket is opened and never closed"),
    ],
)
def test_a_file_that_is_no_mapping(text, line):
    (said,) = problems(text)
    assert said.startswith(line)


def test_numbers_may_be_written_as_people_write_them():
    recipe = read_recipe(GOOD.replace("steps: 800, lr: 1e-4", "steps: 1e3, lr: 1"), "r.yaml")
    assert recipe.train.steps == 1000
    assert type(recipe.train.steps) is int
    assert type(recipe.train.lr) is float


def test_braces_in_a_value_are_shown_as_they_are():
    assert "not text '{0.__class__}'" in problems(GOOD.replace("lr: 1e-4", "lr: '{0.__class__}'"))[0]


def test_a_thousand_mistakes_are_cut_short():
    lines = problems(GOOD + "".join(f"key{number}: 1\n" for number in range(1000)))
    assert len(lines) == 51
    assert lines[-1] == "r.yaml: and 950 more problems"
