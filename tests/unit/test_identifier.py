"""Words that name a subject: what is refused as one, what is suggested, and where a recipe is told so."""

from __future__ import annotations

from itertools import islice

import pytest
from PIL import Image

from tuner.backbones.vocabulary import T5, published_clip
from tuner.cli import call
from tuner.identifier import KNOWN, SHAPE, advice, judge, names, suggest
from tuner.recipe import Recipe
from tuner.tasks.base import Subject

CLIP = published_clip()


def recipe(instance, prior=None, *, adapters=("lora",), backbone="sd15", **data):
    sources = {"instance": instance if isinstance(instance, list) else {"path": "x", "caption": instance}}
    if prior is not None:
        sources["prior"] = {"path": "y", "caption": prior} if isinstance(prior, str) else prior
    return Recipe.model_validate(
        {
            "backbone": {"name": backbone, "model": "toybox"},
            "adapters": list(adapters),
            "task": "dreambooth",
            "data": {"resolution": 64, "bucket_step": 16, **sources, **data},
            "train": {"steps": 1},
        }
    )


@pytest.mark.parametrize("word", ["sks", "ohwx", "rcn", "SKS"])
def test_rare_words_that_are_whole_serve(word):
    assert judge(word, [CLIP]).fault == ""


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("dog", "is a common word"),
        ("unique", "splits into common pieces in CLIP (uni que)"),
        ("mydogrex", "splits into single characters in CLIP (my dogre x)"),
        ("luna", "is a common word"),
        ("xxy5syt00", "splits into single characters in CLIP (xx y 5 sy t 0 0)"),
        ("my-dog", "splits into single characters in CLIP (my - dog)"),
        ("supercalifragilisticexpiali", "pieces in CLIP"),
    ],
)
def test_what_speaks_against_a_word_is_said(word, fault):
    assert fault in judge(word, [CLIP]).fault


def test_suggestions_keep_to_the_rule():
    found = list(islice(suggest([CLIP]), 60))
    assert len({verdict.word for verdict in found}) == 60
    for verdict in found:
        assert SHAPE.fullmatch(verdict.word)
        assert verdict.word not in KNOWN
        assert len(verdict.pieces["CLIP"]) == 1
        assert verdict.ranks["CLIP"] >= CLIP.common
        assert verdict.fault == ""
    ranks = [verdict.ranks["CLIP"] for verdict in found]
    assert ranks == sorted(ranks, reverse=True)


def test_words_that_are_whole_in_every_tokenizer_come_first():
    filler = {f"\u2581w{i}": -5.0 - i / 1000 for i in range(6000)}
    letters = dict.fromkeys("abcdefghijklmnopqrstuvwxyz", -12.0)
    t5 = T5(
        {"<unk>": 0.0, "\u2581": -3.0, "\u2581mds": -6.0, **filler, **letters, "\u2581mwf": -12.0, "\u2581rc": -9.0}
    )
    best, second, *_ = suggest([CLIP, t5])
    assert (best.word, best.fault) == ("mwf", ""), "mds is common in T5, and all others split"
    assert second.fault
    assert "is a common word (number 3 in T5)" in judge("mds", [CLIP, t5]).fault
    assert "in T5 (rc n)" in judge("rcn", [CLIP, t5]).fault


@pytest.mark.parametrize(
    ("caption", "plain", "trigger", "expected"),
    [
        ("a photo of sks dog", "a photo of a dog", "", ["sks"]),
        ("a photo of the sks Dog", "A photo of a dog", "", ["sks"]),
        ("a photo of dog", "a photo of a dog", "", []),
        ("sks dog", "", "", ["sks", "dog"]),
        ("a dog", "a dog", "ohwx", ["ohwx"]),
        ("a photo of <toby> dog, sitting", "a dog", "", ["photo", "<toby>", "sitting"]),
    ],
)
def test_names_are_what_the_class_lacks(caption, plain, trigger, expected):
    assert names(Subject("key", caption, plain), trigger) == expected


GOOD = [
    recipe("a photo of sks dog", "a photo of a dog"),
    recipe("a photo of sks dog"),
    recipe("a photo of a dog", "a photo of a dog", trigger="ohwx"),
    recipe("a photo of <toby> dog", "a dog", adapters=[{"name": "textual_inversion", "token": "<toby>"}, "lora"]),
    recipe("a red sks dog in a park", "a photo of a dog"),
]


@pytest.mark.parametrize("good", GOOD, ids=["prior", "no prior", "trigger", "a word that is taught", "more words"])
def test_a_good_name_gets_no_advice(good):
    assert advice(good) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (recipe("a photo of my dog", "a photo of a dog"), "no word in it is the subject's own"),
        (recipe("a photo of rex dog", "a photo of a dog"), "'rex' is a common word"),
        (recipe("a photo of xxy5syt00 dog", "a dog"), "'xxy5syt00' splits into single characters"),
        (recipe("a dog"), "'dog' is a common word"),
        (recipe("a photo of <toby> dog", "a photo of a dog"), "'<toby>' splits"),
        (recipe("a photo of zqxjkv dog", "a photo of a dog", backbone="sd35"), "'zqxjkv' splits"),
    ],
    ids=["none", "common", "letters", "no prior", "a word that nobody teaches", "sd35"],
)
def test_a_bad_name_gets_three_better_ones(bad, words):
    (line,) = advice(bad)
    assert line.startswith("data.instance.caption: ")
    assert words in line
    better = line.partition("name a subject better: ")[2].partition(" (")[0].split(", ")
    assert len(better) == 3
    assert all(judge(word, [CLIP]).fault == "" for word in better)


def test_each_of_several_subjects_is_looked_at():
    two = [{"path": "x", "caption": "sks dog"}, {"path": "z", "caption": "red cat"}]
    priors = [{"path": "a", "caption": "a dog"}, {"path": "b", "caption": "a cat"}]
    (line,) = advice(recipe(two, priors))
    assert line.startswith("data.instance.1.caption: 'red' is a common word")


def test_only_a_named_subject_gets_advice():
    plain = recipe("a photo of a dog").model_dump(mode="json")
    plain["task"], plain["data"] = "finetune", {"images": {"path": "x", "caption": "a dog"}}
    assert advice(Recipe.model_validate(plain)) == []


@pytest.mark.parametrize("command", ["check", "plan"])
def test_check_and_plan_say_it(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), (90, 10, 10)).save(tmp_path / "photos/a.png")
    words = ["dreambooth_lora", "--rehearse", "data.instance.path=photos", "data.prior=null", "task=dreambooth"]
    for caption, advised in (("a photo of rex dog", True), ("a photo of sks dog", False)):
        assert call([command, *words, f"data.instance.caption={caption}"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("note: data.instance.caption: 'rex' is a common word" in said or "'photo'" in said) == advised
        assert ("Rare words name a subject better: rcn, " in said) == advised


def test_the_command_lists_and_judges(capsys):
    assert call(["token", "-n", "3"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["word", "rcn", "pbc", "tvc"]
    assert call(["token", "dog", "sks"]) == 0
    _, dog, sks = capsys.readouterr().out.splitlines()
    assert "is a common word" in dog
    assert sks.split() == ["sks", "number", "47,625"]
    assert call(["token", "--recipe", "dreambooth_lora"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("sks")
    assert call(["token", "--backbone", "sd35", "--count", "1"]) == 0
    assert "T5: its tokenizer comes with the model" in capsys.readouterr().out
    assert call(["token", "--backbone", "sd16"]) == 2
    assert call(["token", "--recipe", "lora", "--model", "x"]) == 2


def test_the_tokenizers_of_a_model_are_asked(sd35_folder, sd15_folder, capsys):
    assert call(["token", "sks", "--backbone", "sd35", "--model", str(sd35_folder)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["word", "CLIP", "T5"]
    assert call(["token", "mushroom", "--model", str(sd15_folder)]) == 0
    assert "number" in capsys.readouterr().out
