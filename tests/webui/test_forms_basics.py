"""A few answers make a whole recipe, which trains; and what is typed in them stays text."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from form_parts import PAYLOADS, RECIPES, draw_dataset, draw_pairs

from tuner.errors import UsageError
from tuner.identifier import judge
from tuner.recipe_file import Reading
from tuner.shipped import shipped
from tuner.yaml_text import parse
from webui.forms.basics import Basics, Pictures, apply, notes, outcome, problems
from webui.forms.check import check
from webui.forms.document import problems as text_problems
from webui.forms.document import read, set_value
from webui.forms.methods import BASES, method, methods
from webui.forms.quality import QUALITIES
from webui.forms.told import told
from webui.forms.words import Words, token
from webui.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace.open(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def pictures(workspace):
    return {False: draw_dataset(workspace.root / "plain"), True: draw_pairs(workspace.root / "pairs")}


def recipe_of(basics, given):
    text = apply(basics, given[method(basics.method).pairs])
    reading = read(text)
    assert isinstance(reading, Reading), [str(problem) for problem in reading]
    return text, reading.recipe


def test_every_shipped_recipe_is_a_method():
    assert sorted(one.key for one in methods()) == sorted(RECIPES)
    assert methods()[0].key == "dreambooth_lora"
    for one in methods():
        assert one.model in BASES
        assert one.title[0].isupper()
        assert not one.title.endswith((".", "al"))
        text = shipped()[one.key].read_text("utf-8")
        assert one.trigger in text
        assert not one.prior or one.subject


@pytest.mark.parametrize("practice", [False, True], ids=["real", "practice"])
@pytest.mark.parametrize("name", RECIPES)
def test_answers_make_a_recipe_that_check_accepts(name, practice, pictures, workspace):
    for subject in ("owl", ""):
        basics = Basics(name, practice, "", "ohwx", subject, "quick", "My owl")
        assert problems(basics) == {}
        text, recipe = recipe_of(basics, pictures)
        assert ("sks" in text.split("\n\n", 1)[1]) is False
        assert (recipe.backbone.model == "toybox") is practice
        assert ("prior" in recipe.sources) is (method(name).prior and subject != "")
        found = check(text, workspace)
        assert found.problems == ()
        assert found.seen[0].pictures == (3 if "hold_out" in text else 2 if method(name).pairs else 4)
        assert found.refused == ()


@pytest.mark.parametrize("name", RECIPES)
def test_the_answers_can_be_told_from_the_recipe(name, pictures):
    one = method(name)
    basics = Basics(
        name, False, "", "ohwx" if one.trigger else "sks", "owl" if one.prior or one.token else "", "careful", "My owl"
    )
    text, _ = recipe_of(basics, pictures)
    assert told(text) == basics
    assert told(text.replace("Made from", "Made")) is None
    assert told("") is None


def test_the_dataset_is_told_by_its_folder(tmp_path):
    folder = tmp_path / "0123456789abcdef" / "images"
    text = apply(Basics(name="x"), Pictures(folder))
    assert told(text).dataset == "0123456789abcdef"


def test_captions_of_the_dataset_get_the_trigger(tmp_path, workspace):
    given = draw_dataset(tmp_path / "captioned", captioned=4)
    text = apply(Basics("dreambooth_lora", trigger="ohwx", subject="owl"), given)
    assert parse(text).value["data"]["trigger"] == "ohwx"
    assert "captions: 4 from .txt" in " ".join(check(text, workspace).notes)
    assert "trigger" not in parse(apply(Basics(subject="owl"), Pictures(given.folder, 4, 0))).value["data"]


@pytest.mark.parametrize("name", ["dreambooth_lora", "lora", "textual_inversion", "full_sd15"])
def test_quality_moves_what_it_says(name, pictures):
    shipped_ = read(shipped()[name].read_text("utf-8")).recipe
    steps, ranks, drawn = [], [], []
    for quality in QUALITIES:
        basics = Basics(name, subject="owl", quality=quality)
        text, recipe = recipe_of(basics, pictures)
        steps.append(recipe.train.steps)
        ranks += [a.rank for a in recipe.adapters if a.key == "lora"]
        drawn += [s.generate for s in recipe.sources.get("prior", ())]
        assert f"{recipe.train.steps:,} training steps" in outcome(basics, pictures[False])
        for section in ("sample", "save"):
            every, was = getattr(recipe, section).every, getattr(shipped_, section).every
            assert every / recipe.train.steps == pytest.approx(was / shipped_.train.steps, rel=0.02)
    assert steps == sorted(set(steps))
    assert steps[1] == shipped_.train.steps
    assert ranks == sorted(set(ranks))
    assert drawn == sorted(set(drawn))


def test_words_stand_where_the_recipes_did(pictures):
    text, recipe = recipe_of(Basics("dreambooth_lora", trigger="ohwx", subject="owl"), pictures)
    assert recipe.sources["instance"][0].caption == "a photo of ohwx owl"
    assert recipe.sources["prior"][0].caption == "a photo of an owl"
    assert recipe.sample.prompts == ("a photo of ohwx owl in a bucket", "a photo of an owl")
    text, recipe = recipe_of(Basics("pose_lora", trigger="zqk", subject="dancer"), pictures)
    assert recipe.sources["instance"][0].caption == "a photo of a dancer in zqk pose"
    text, recipe = recipe_of(Basics("pivotal", trigger="My Owl!", subject="owl"), pictures)
    assert recipe.adapters[0].token == "<my-owl>"
    assert recipe.adapters[0].init == "owl"
    assert recipe.sample.prompts[0] == "a photo of <my-owl> in a bucket"


def test_only_whole_words_are_put_in():
    words = Words(method("dreambooth_lora"), "ohwx", "owl")
    text = "a doghouse, dogs, sks-like, <dog>, hotdog and sksdog"
    assert words.put_in(text) == text
    assert words.put_in("sks dog, a dog, dog, sks") == "ohwx owl, an owl, owl, ohwx"


@pytest.mark.parametrize("name", ["dreambooth_lora", "pivotal", "lora", "full_sd35_medium"])
def test_no_comment_speaks_of_what_is_no_longer_there(name, pictures):
    text, _ = recipe_of(Basics(name, True, trigger="ohwx", subject="owl"), pictures)
    for false in ("yaml-language-server", "512", "1024 px", "dog", "Hugging Face", "every 200 steps", "--rehearse"):
        assert false not in text


def test_payloads_stay_text(pictures):
    """As trigger, class and name: in the recipe they are what was typed, or refused, and nothing else changes."""
    assert len(PAYLOADS) == 200
    plain = {
        practice: apply(Basics("dreambooth_lora", practice, subject="owl", name="x"), pictures[False])
        for practice in (False, True)
    }
    for number, payload in enumerate(PAYLOADS):
        practice = number % 10 == 0
        basics = Basics("dreambooth_lora", practice, "", payload, payload, "normal", payload)
        text, recipe = recipe_of(basics, pictures)
        assert recipe.sources["instance"][0].caption == f"a photo of {payload} {payload}"
        assert payload in recipe.sample.prompts[0]
        assert told(text) == basics
        assert text.count("\n") == plain[practice].count("\n")
        assert list(parse(text).value) == list(parse(plain[practice]).value)
        if practice:
            word = Basics("textual_inversion", trigger=payload, subject=payload)
            assert problems(word) or recipe_of(word, pictures)[1].adapters[0].token == token(payload)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"trigger": ""}, "trigger"),
        ({"trigger": "a\nb"}, "trigger"),
        ({"trigger": "a\u2028b"}, "trigger"),
        ({"trigger": "a\0b"}, "trigger"),
        ({"trigger": "x" * 61}, "trigger"),
        ({"trigger": "\u202e\u2713", "method": "pivotal"}, "trigger"),
        ({"subject": "x\x1by"}, "subject"),
        ({"subject": "x\n# y"}, "subject"),
        ({"name": "a\nbackbone: 1"}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"quality": "best"}, "quality"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(changes, key, pictures):
    basics = Basics(**{"subject": "owl", **changes})
    assert list(problems(basics)) == [key]
    with pytest.raises(UsageError, match=key):
        apply(basics, pictures[False])


def test_an_unknown_method_is_refused(pictures):
    for action in (lambda b: apply(b, pictures[False]), problems, notes):
        with pytest.raises(UsageError, match="no method"):
            action(Basics("../../etc/passwd"))


def test_advice_on_words_is_the_identifiers_own():
    assert notes(Basics(trigger="sks", subject="owl")) == {}
    said = notes(Basics(trigger="owl", subject="owl"))
    assert "common word" in said["trigger"][0]
    assert "rare words serve better" in said["trigger"][-1]
    assert "is the trigger, too" in said["subject"][0]
    better = said["trigger"][-1].rpartition(": ")[2].split(", ")
    vocabularies, _ = read(shipped()["lora"].read_text("utf-8")).recipe.backbone.vocabularies()
    assert not any(judge(word, vocabularies).fault for word in better)
    assert "<my-dog>" in notes(Basics("pivotal", trigger="my dog"))["trigger"][0]
    assert "nothing keeps" in notes(Basics(subject=""))["subject"][0]


def test_answers_survive_json_and_nonsense():
    basics = Basics("lora", True, "id", "a", "b", "quick", "n")
    assert Basics.from_json(json.loads(json.dumps(basics.to_json()))) == basics
    assert Basics.from_json({"practice": "yes", "trigger": 5, "other": 1, "name": None}) == Basics()


def test_a_practice_recipe_trains(tmp_path, pictures):
    """The command that the page shows, on the file that the page writes."""
    text = apply(Basics("dreambooth_lora", True, "", "ohwx", "owl", "quick", "Practice"), pictures[False])
    for path, value in {
        "train.steps": 2,
        "train.batch": 1,
        "sample.every": 2,
        "sample.steps": 1,
        "save.every": 2,
        "data.prior.0.generate": 1,
        "data.prior.0.steps": 1,
        "adapters.0.rank": 1,
    }.items():
        text = set_value(text, path, value)
    assert not text_problems(text)
    file = tmp_path / "recipe.yaml"
    file.write_text(text, "utf-8")
    words = [sys.executable, "-m", "tuner"]
    checked = subprocess.run([*words, "check", str(file)], capture_output=True, text=True, check=False, timeout=300)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    run = [*words, "run", str(file), "--run-dir", str(tmp_path / "run"), "--json"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"
    assert (tmp_path / "run" / "recipe.yaml").read_text("utf-8") == text
