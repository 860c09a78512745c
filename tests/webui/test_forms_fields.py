"""Every key of a recipe has one field of the form, with nobody listing it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from form_parts import RECIPES, SEVERAL, text_of
from pydantic import Field as PydanticField

from tuner.adapters import Adapter
from tuner.objectives import Objective
from tuner.optim.optimizers import Optimizer
from tuner.parts import Choice, Part
from tuner.recipe_file import read_recipe
from tuner.sections import DataOptions
from tuner.yaml_text import parse
from webui.forms import schema_walk as walk
from webui.forms.fields import STARTS, form, order


def keys(part, path=()):
    """(path, value, whether it is a section that cannot be off) of every key of every part in use."""
    for name, info in type(part).model_fields.items():
        value = getattr(part, name)
        here = (*path, name)
        lone = isinstance(value, Part) and not isinstance(value, Choice) and not walk.takes_null(info.annotation)
        yield here, info, lone
        if isinstance(value, Part) and walk.kind_of(info.annotation) == "yaml" and not walk.lone_part(info.annotation):
            continue  # an interval in epochs: one line of YAML
        if isinstance(value, Part):
            yield from keys(value, here)
        elif isinstance(value, tuple) and walk.entries_of(info.annotation):
            for number, entry in enumerate(value):
                yield (*here, number), info, False
                yield from keys(entry, (*here, number))


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_of_every_chosen_part_appears_once(name):
    text = text_of(name)
    recipe = read_recipe(text, name)
    made = form(parse(text).value)
    paths = [field.path for group in made.groups for field in group.fields]
    assert len(paths) == len(set(paths))
    assert set(paths) == set(made.values)
    hidden = {f"data.{role}" for role in type(recipe.data).model_fields if role not in DataOptions.model_fields}
    hidden -= {f"data.{role}" for role in recipe.task.sources}
    expected = set()
    for path, info, lone in keys(recipe):
        dotted = ".".join(map(str, path))
        entries_of_own = dotted == "adapters"  # each entry has its field
        if dotted in hidden or lone or entries_of_own:
            continue
        if isinstance(path[-1], int) and not issubclass(walk.entries_of(info.annotation), Choice):
            continue  # a source, which is nothing but its keys
        expected.add(dotted)
    assert expected == set(paths)


@pytest.mark.parametrize("name", SEVERAL)
def test_every_field_can_be_drawn(name):
    made = form(parse(text_of(name)).value)
    for group in made.groups:
        assert group.title
        for field in group.fields:
            assert field.help, field.path
            assert field.label, field.path
            assert field.words, field.path
            if field.kind == "choice" and field.default is not None:
                assert field.default in [choice.value for choice in field.choices]
            if field.kind in ("integer", "number") and field.default is not None:
                least, most = field.bounds.least, field.bounds.most
                assert least is None or field.default >= least
                assert most is None or field.default <= most


@pytest.mark.parametrize("family", [Adapter, Objective, Optimizer], ids=lambda family: family.__name__)
def test_every_member_shows_its_own_fields(family):
    place = {Adapter: "adapters.0", Objective: "objective", Optimizer: "train.optimizer"}[family]
    for name, member in family.family.items():
        tree = parse(text_of("lora")).value
        if family is Adapter:
            tree["adapters"] = [name]
        elif family is Objective:
            tree["objective"] = name
        else:
            tree["train"]["optimizer"] = name
        made = form(tree)
        assert made.values[place] == name
        shown = {path for path in made.values if path.startswith(place + ".")}
        assert {path.removeprefix(place + ".").split(".")[0] for path in shown} == set(member.model_fields)


def test_a_new_member_appears_by_itself():
    class Grafted(Adapter, name="grafted"):
        """A way that nobody has thought of."""

        twigs: int = PydanticField(default=3, ge=1, le=9)
        """How many twigs."""
        sap: bool = True
        """Whether it flows."""

    try:
        tree = parse(text_of("lora")).value
        tree["adapters"] = "grafted"
        made = form(tree)
        field = made.field("adapters.0.twigs")
        assert field is not None
        assert (field.kind, field.default, field.bounds.least, field.bounds.most) == ("integer", 3, 1, 9)
        assert made.field("adapters.0.sap").kind == "switch"
        choice = next(one for one in made.field("adapters.0").choices if one.value == "grafted")
        assert "nobody has thought of" in choice.text
    finally:
        del Adapter.family["grafted"]


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"backbone": 5, "adapters": 7, "task": [], "data": "x", "train": None, "sample": [1]},
        {"backbone": {"name": "nobody"}, "adapters": ["nobody", None, {"name": 3}], "task": "nobody"},
        {"adapters": {"name": "lora"}, "data": {"instance": [1, {"path": 2}]}, "validation": True},
    ],
    ids=["empty", "wrong kinds", "unknown names", "alone"],
)
def test_a_wrong_recipe_still_has_a_form(tree):
    made = form(tree)
    assert "train.lr" in made.values
    assert "data.resolution" in made.values


def test_what_recipes_set_is_not_advanced():
    made = form(parse(text_of("dreambooth_lora")).value)
    assert not made.field("train.lr").advanced
    assert not made.field("adapters.0.rank").advanced
    assert made.field("train.max_bad_steps").advanced
    assert next(group for group in made.groups if group.key == "log").advanced


def test_sections_have_an_order_and_a_start():
    tree = parse(text_of("dreambooth_lora")).value
    assert order(tree, ()).index("backbone") < order(tree, ()).index("save")
    assert order(tree, ("adapters", 0))[0] == "name"
    assert order(tree, ("train", "schedule")) == ("name", "warmup")
    assert order(tree, ("no", "such")) == ()
    made = form(tree)
    for path in STARTS:
        assert path.startswith(("data.", "validation.")) or made.field(path).section


def test_nothing_heavy_is_imported():
    modules = "basics check document drafts told widgets"
    script = f"""
import sys
for name in {modules.split()!r}: __import__("webui.forms." + name)
from webui.forms.methods import methods
methods()
print(*[name for name in ("torch", "diffusers", "transformers", "gradio", "peft") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""
