"""`key=value`: typed and placed as the file's own values are."""

from __future__ import annotations

import pytest

from tuner.errors import RecipeError
from tuner.recipe_file import read_recipe

ALONE = """\
backbone: {name: sd15, model: some/model}
adapters: lora
task: dreambooth
data:
  instance: {path: photos/, caption: a photo of sks dog}
train: {steps: 800, schedule: cosine}
"""
LISTED = ALONE.replace("adapters: lora", "adapters: [{name: lora, rank: 4}]").replace(
    "instance: {path: photos/, caption: a photo of sks dog}",
    "instance:\n    - path: photos/\n      caption: a photo of sks dog",
)
SEVERAL = LISTED.replace("    - path: photos/", "    - {path: first/, caption: one}\n    - path: photos/")


@pytest.mark.parametrize("text", [ALONE, LISTED])
@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.steps=3", lambda r: r.train.steps, 3),
        ("train.lr=1e-5", lambda r: r.train.lr, 1e-5),
        (" train.steps =3", lambda r: r.train.steps, 3),
        ("data.instance.path=~/dog", lambda r: r.data.instance[0].path, "~/dog"),
        ("data.instance.0.path=x", lambda r: r.data.instance[0].path, "x"),
        (r"data.instance.path=C:\dog", lambda r: r.data.instance[0].path, r"C:\dog"),
        ("data.instance.caption=a = b", lambda r: r.data.instance[0].caption, "a = b"),
        ("data.instance.caption='no # comment'", lambda r: r.data.instance[0].caption, "no # comment"),
        ("data.instance.caption=no", lambda r: r.data.instance[0].caption, "no"),
        ("data.instance.caption=null", lambda r: r.data.instance[0].caption, None),
        ("data.instance={path: y}", lambda r: [s.path for s in r.data.instance], ["y"]),
        ("data.instance=[{path: y}, {path: z}]", lambda r: [s.path for s in r.data.instance], ["y", "z"]),
        ("adapters.0.rank=8", lambda r: r.adapters[0].rank, 8),
        ("adapters.rank=8", lambda r: r.adapters[0].rank, 8),
        ("adapters.0=lora", lambda r: r.adapters[0].rank, 16),
        ("adapters=lora", lambda r: r.adapters[0].rank, 16),
        ("train.schedule.warmup=10", lambda r: (r.train.schedule.key, r.train.schedule.warmup), ("cosine", 10)),
        ("train.schedule=linear", lambda r: r.train.schedule.key, "linear"),
        ("train.schedule.name=linear", lambda r: r.train.schedule.key, "linear"),
        ("train.optimizer.weight_decay=0", lambda r: (r.train.optimizer.key, r.train.optimizer.weight_decay), ("adamw", 0.0)),
        ("train.ema.decay=0.9", lambda r: r.train.ema.decay, 0.9),
        ("train.ema={}", lambda r: r.train.ema.decay, 0.999),
        ("sample.prompts=[a, b]", lambda r: r.sample.prompts, ("a", "b")),
        ("sample.prompts=a dog, a cat", lambda r: r.sample.prompts, ("a dog, a cat",)),
        ("save.every={epochs: 2}", lambda r: r.save.every.epochs, 2),
        ("save.every=null", lambda r: r.save.every, None),
        ("objective={name: ddpm, min_snr_gamma: 5}", lambda r: r.objective.min_snr_gamma, 5.0),
        ("log.to=[]", lambda r: r.log.to, ()),
    ],
)  # fmt: skip
def test_overrides(text, override, read, value):
    assert read(read_recipe(text, "r.yaml", [override])) == value


def test_sections_are_made_on_the_way():
    recipe = read_recipe(ALONE, "r.yaml", ["data.prior.generate=8", "data.prior.caption=a photo of a dog"])
    assert recipe.data.prior[0].generate == 8


def test_a_bare_task_can_be_replaced():
    overrides = ["task=finetune", "data.images.path=x", "data.instance=null"]
    recipe = read_recipe(ALONE, "r.yaml", overrides)
    assert recipe.task.key == "finetune"
    assert list(recipe.sources) == ["images"]


def test_one_of_several_is_named_by_its_number():
    recipe = read_recipe(SEVERAL, "r.yaml", ["data.instance.1.path=x"])
    assert [source.path for source in recipe.data.instance] == ["first/", "x"]


def test_the_last_of_two_wins():
    assert read_recipe(ALONE, "r.yaml", ["train.steps=3", "train.steps=4"]).train.steps == 4


def test_an_override_can_mend_the_file():
    assert read_recipe(ALONE.replace("800", "many"), "r.yaml", ["train.steps=3"]).train.steps == 3


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.stpes=3", "override 'train.stpes=3': train.stpes: unknown key; did you mean 'steps'?"),
        ("trian.steps=3", "override 'trian.steps=3': trian: unknown key; did you mean 'train'?"),
        ("train.steps='3'", "override \"train.steps='3'\": train.steps: must be a whole number, not text '3'; take the quotes (or the leading zero) away"),
        ("train.steps=true", "override 'train.steps=true': train.steps: must be a whole number, not true"),
        ("train.steps=", "r.yaml:6:1: train: how long? give steps or epochs"),
        ("train.steps.x=3", "override 'train.steps.x=3': train.steps is 800, which has no keys of its own"),
        ("train.0.steps=3", "override 'train.0.steps=3': train.0: unknown key; there is"),
        ("train.steps", "override 'train.steps': must be key=value, such as train.steps=400"),
        ("train.steps=3 # three", "override 'train.steps=3 # three': holds a #, which begins a comment; put the text in quotes"),
        ("train.steps=a: b", "override 'train.steps=a: b': train.steps: must be a whole number, not a mapping"),
        ("data.instance.caption=dog: a", "override 'data.instance.caption=dog: a': data.instance.caption: must be text, not a mapping"),
        ("data.instance.0.pth=x", "override 'data.instance.0.pth=x': data.instance.pth: unknown key; did you mean 'path'?"),
        ("adapters.1.rank=3", "override 'adapters.1.rank=3': adapters"),
        ("objective.min_snr_gamma=5", "override 'objective.min_snr_gamma=5': objective: this objective has no `name`; there is ddpm, rectified_flow"),
        ("task=finetun", "override 'task=finetun': task: unknown task 'finetun'; did you mean 'finetune'?"),
        ("data.crop.x=1", "override 'data.crop.x=1': data.crop: must be one of"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named(override, line):
    with pytest.raises(RecipeError) as caught:
        read_recipe(ALONE, "r.yaml", [override])
    assert any(said.startswith(line) for said in caught.value.problems), caught.value.problems


def test_several_places_need_a_number():
    with pytest.raises(RecipeError, match=r"data.instance is a list of 2; say which, as in data.instance.0.path"):
        read_recipe(SEVERAL, "r.yaml", ["data.instance.path=x"])
    with pytest.raises(RecipeError, match="data.instance has no entry 2; its last entry is 1"):
        read_recipe(SEVERAL, "r.yaml", ["data.instance.2.path=x"])
