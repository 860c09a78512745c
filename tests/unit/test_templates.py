"""Captions in sentences, and words that captions must say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tuner import toybox
from tuner.data import templates
from tuner.data.batches import Recital
from tuner.data.scan import scan
from tuner.data.sources import HeldOutSource, PriorSource, Source
from tuner.draws import Draws
from tuner.errors import DataError
from tuner.recipe import Recipe
from tuner.types import Role
from tuner.watch import Watcher


def recipe(adapter=None, task="finetune", **data) -> Recipe:
    role = "images" if task == "finetune" else "instance"
    own = data.pop("source", {})
    return Recipe.model_validate(
        {
            "backbone": {"name": "sd15", "model": "toybox"},
            "adapters": [adapter or {"name": "textual_inversion", "token": "<toy>"}],
            "task": task,
            "data": {"resolution": 64, role: {"path": str(toybox.pictures()), **own}, **data},
            "train": {"steps": 2},
        }
    )


def found(made: Recipe):
    return scan(made, decode=False, watcher=Watcher())


def test_the_sets_of_the_paper():
    assert (len(templates.OBJECT), len(templates.STYLE)) == (27, 19)
    for sentence in (*templates.OBJECT, *templates.STYLE):
        assert sentence.count("{}") == 1
    assert all("style of {}" in sentence for sentence in templates.STYLE)


@pytest.mark.parametrize("named", ["object", "style"])
def test_each_picture_gets_every_sentence(named):
    result = found(recipe(source={"caption": "<toy>", "templates": named}))
    expected = tuple(sentence.replace("{}", "<toy>") for sentence in templates.SETS[named])
    assert all(example.captions == expected for example in result.examples["images"])
    assert any(f"in one of {len(expected)} templates" in note for note in result.notes)


def test_one_is_drawn_on_each_visit_by_its_key():
    example = found(recipe(source={"caption": "<toy>", "templates": ["one {}", "two {}"]})).examples["images"][0]
    told = Recital(0.0, {})
    visits = [told.caption(Role("images"), example, Draws(0), ("images", example.uid, n, 0)) for n in range(40)]
    assert set(visits) == {"one <toy>", "two <toy>"}
    assert visits == [told.caption(Role("images"), example, Draws(0), ("images", example.uid, n, 0)) for n in range(40)]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Source, {"path": "x", "templates": "object"}),
        (Source, {"path": "x", "caption": "c", "templates": ["no place"]}),
        (Source, {"path": "x", "caption": "c", "templates": ["{} and {}"]}),
        (Source, {"path": "x", "caption": "c", "templates": "things"}),
        (Source, {"path": "x", "own_captions": False}),
        (Source, {"path": "x", "caption": "c", "own_captions": False, "captions": [{"ending": ".txt"}]}),
        (PriorSource, {"predict": True, "caption": "c", "templates": "object"}),
    ],
    ids=["no caption", "no place", "two places", "no set", "none at all", "both", "predicted"],
)
def test_what_has_no_effect_is_refused(kind, given):
    with pytest.raises(ValidationError):
        kind.model_validate(given)


def test_a_caption_of_its_own_goes_before_the_templates_unless_it_is_not_wanted(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes((toybox.pictures() / "0.png").read_bytes())
    (tmp_path / "a.txt").write_text("a <toy> in the snow")
    given = {"path": str(tmp_path), "caption": "<toy>", "templates": ["the {}"]}
    assert [e.captions for e in found(recipe(source=given)).examples["images"]] == [
        ("a <toy> in the snow",),
        ("the <toy>",),
    ]
    called = found(recipe(source={**given, "own_captions": False})).examples["images"]
    assert [e.captions for e in called] == [("the <toy>",)] * 2
    assert HeldOutSource(path="x", caption="c", own_captions=False).spoken == ("c",)


def test_captions_that_never_say_the_word_are_refused():
    with pytest.raises(DataError, match=r"no caption says <toy>.*'a photo of a dog'") as fault:
        found(recipe(source={"caption": "a photo of a dog"}))
    assert "data.trigger: <toy>" in fault.value.hint
    assert found(recipe(source={"caption": "a photo of a dog"}, trigger="<toy>"))
    assert found(recipe({"name": "lora"}, source={"caption": "a photo of a dog"}))


def test_pictures_that_do_not_teach_it_are_counted(tmp_path):
    for name, text in (("a", "a <toy>"), ("b", "a dog")):
        (tmp_path / f"{name}.png").write_bytes((toybox.pictures() / "0.png").read_bytes())
        (tmp_path / f"{name}.txt").write_text(text)
    notes = found(recipe(source={"path": str(tmp_path)})).notes
    assert any("1 picture of 2 have no caption with <toy>" in note for note in notes)


@pytest.mark.parametrize(
    ("adapters", "data", "key"),
    [
        ([{"name": "textual_inversion", "until": 0.5}], {}, "adapters.0.until"),
        ([{"name": "textual_inversion"}, {"name": "textual_inversion"}], {}, "adapters.0.token"),
        ([{"name": "textual_inversion", "t5": True}], {}, "adapters.0.t5"),
        ([{"name": "textual_inversion"}], {"caption_dropout": 1}, "data.caption_dropout"),
        ([{"name": "textual_inversion", "token": "toy"}], {}, "adapters.0.token"),
        ([{"name": "textual_inversion", "token": "<../x>"}], {}, "adapters.0.token"),
        ([{"name": "textual_inversion", "token": "<Toy>"}], {}, "adapters.0.token"),
        ([{"name": "textual_inversion", "length": 0}], {}, "adapters.0"),
    ],
    ids=["pivot alone", "same word", "no T5", "no captions", "no brackets", "a path", "capitals", "no length"],
)
def test_recipes_that_cannot_be_meant_are_refused(adapters, data, key):
    tree = {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": adapters,
        "task": "finetune",
        "data": {"resolution": 64, "images": {"path": "x", "caption": "<new>"}, **data},
        "train": {"steps": 2},
    }
    with pytest.raises(ValidationError) as fault:
        Recipe.model_validate(tree)
    assert any(".".join(map(str, error["loc"])).startswith(key) for error in fault.value.errors())
