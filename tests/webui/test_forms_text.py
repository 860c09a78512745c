"""A field that is changed in the form is changed in the text, and nothing else is."""

from __future__ import annotations

import copy
import re
import time
from collections import Counter

import pytest
from form_parts import PAYLOADS, RECIPES, SEVERAL, as_json, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import RecipeError, TunerError, UsageError
from tuner.recipe_file import Reading, read_recipe
from tuner.strict import UNPRINTABLE
from tuner.yaml_text import parse
from tuner.yaml_write import to_yaml
from webui.forms.document import form_of, problems, read, reset, revise, set_value, values
from webui.forms.rewriter import same
from webui.forms.widgets import shown, taken

words = st.text(max_size=20).filter(lambda text: not UNPRINTABLE.search(text))


def value_for(field):
    """Values of a field's kind, sound or not."""
    return {
        "integer": st.integers(-5, 10**6),
        "number": st.floats(allow_nan=False, allow_infinity=False),
        "switch": st.booleans(),
        "choice": st.sampled_from([choice.value for choice in field.choices] or [None]),
        "text": words | st.sampled_from(PAYLOADS),
        "list": st.lists(words, max_size=4),
        "yaml": st.integers(1, 9) | st.lists(st.integers(0, 9) | words, max_size=3) | st.just({"epochs": 2}) | words,
    }[field.kind]


def comments(text):
    """Every comment, by the YAML scanner's own rules as far as the recipes here go."""
    return Counter(found.strip() for found in re.findall(r"(?:^|(?<=\s))#[^\n]*", text, re.MULTILINE))


def removed_lines(text, after):
    return Counter(text.splitlines()) - Counter(after.splitlines())


@pytest.mark.parametrize("name", SEVERAL)
def test_saying_what_it_says_changes_nothing(name):
    text = text_of(name)
    for path, value in list(values(text).items())[:: 1 if name == "dreambooth_lora" else 4]:
        assert set_value(text, path, value) == text, path


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_set_is_what_is_read(data):
    name = data.draw(st.sampled_from(SEVERAL))
    text = text_of(name)
    before = form_of(text)
    field = data.draw(st.sampled_from([field for group in before.groups for field in group.fields]))
    value = data.draw(value_for(field))
    if field.section and field.kind == "choice" and value is None and not field.optional:
        return
    after = set_value(text, field.path, value)
    told = values(after)
    assert same(told[field.path], value)
    assert set_value(after, field.path, value) == after
    if not field.section:
        others = {path for path in told if path != field.path}
        assert {path: told[path] for path in others} == {path: before.values[path] for path in others}
        if field.kind not in ("list", "yaml"):
            assert comments(text) - comments(after) == Counter()
    assert sum(removed_lines(text, after).values()) <= (12 if field.section or field.kind in ("list", "yaml") else 1)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_made_by_setting_its_fields(name):
    """From the names of its parts alone, field by field, to an equal recipe."""
    text = text_of(name)
    recipe, goal, tree = read_recipe(text, name), values(text), parse(text).value
    bones = {"backbone": tree["backbone"]["name"], "adapters": [{"name": a["name"]} for a in tree["adapters"]]}
    bones["task"] = tree["task"]["name"] if isinstance(tree["task"], dict) else tree["task"]
    bones["data"] = {role: {} for role in tree["data"] if isinstance(tree["data"][role], dict)}
    made = "# my own words\n" + to_yaml(bones)
    for _ in range(3):
        now = values(made)
        wrong = [path for path, value in goal.items() if path in now and not same(now[path], value)]
        for path in wrong:
            made = set_value(made, path, goal[path])
        if not wrong:
            break
    # a section that is switched on begins with values of its own, which the recipe need not have
    for path in [path for path in values(made) if path not in goal]:
        made = reset(made, path)
    assert made.startswith("# my own words\n")
    assert read_recipe(made, name) == recipe


HANDS = {
    "json": lambda tree: as_json(tree),
    "brackets": lambda tree: "{" + ",\n ".join(f"{key}: {as_json(value)}" for key, value in tree.items()) + "}\n",
    "wide": lambda tree: re.sub(
        r"^( +)", r"\1\1", re.sub(r"^( *)- ", r"\1-   ", to_yaml(tree), flags=re.M), flags=re.M
    ),
    "windows": lambda tree: to_yaml(tree).replace("\n", "\r\n"),
    "no end": lambda tree: to_yaml(tree).rstrip("\n"),
    "marked": lambda tree: "---\n" + to_yaml(tree) + "...\n",
    "dashes at the key": lambda tree: re.sub(r"^  (- .*|  .*)$", r"\1", to_yaml(tree), flags=re.MULTILINE),
    "comments all over": lambda tree: "".join(
        f"# c{n}\n{line}  # e{n}\n" for n, line in enumerate(to_yaml(tree).splitlines())
    ),
}
CHANGES = [
    ("train.lr", 0.5),
    ("train.schedule.warmup", 7),
    ("train.schedule", "linear"),
    ("train.ema", True),
    ("adapters.0.rank", 3),
    ("adapters.0", "full"),
    ("data.instance.0.caption", "a: # 'b'"),
    ("data.prior", False),
    ("data.trigger", "x"),
    ("sample.prompts", ["one", "a photo of a dog", "two"]),
    ("sample.prompts", []),
    ("sample.every", {"epochs": 1}),
    ("log.every", 2),
    ("log.to", ["wandb"]),
    ("objective", "ddpm"),
    ("validation", True),
    ("adapters.0.where", ["a", "b, c"]),
]


@pytest.mark.parametrize("hand", HANDS)
def test_every_handwriting_can_be_changed(hand):
    tree = parse(text_of("dreambooth_lora")).value
    text = HANDS[hand](tree)
    if hand == "dashes at the key":
        text = to_yaml({key: tree[key] for key in tree if key not in ("adapters", "sample")})
        text += "adapters:\n- name: lora\n  rank: 16\nsample:\n  every: 200\n  prompts:\n  - a photo of sks dog\n  - a photo of a dog\n"
    assert not problems(text)
    for path, value in CHANGES:
        after = set_value(text, path, value)
        assert same(values(after)[path], value), path
        assert set_value(after, path, value) == after
        if "\r\n" in text:
            assert "\n" not in after.replace("\r\n", "")
    for path in ("train.seed", "adapters.0.rank", "data.prior.0.generate", "sample.prompts", "sample.every"):
        after = reset(text, path)
        assert path not in form_of(after).given


def test_all_at_once_is_as_one_by_one():
    tree = parse(text_of("dreambooth_lora")).value
    one = text_of("dreambooth_lora")
    for path, value in CHANGES:
        one = set_value(one, path, value) if path in values(one) else one
    wanted = parse(one).value
    assert not same(tree, wanted)
    assert same(parse(revise(text_of("dreambooth_lora"), wanted)).value, wanted)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_values_can_become_any_others(data):
    """The rewriting knows no schema: whatever mapping becomes whatever other, or is refused, and is never spoilt."""
    scalars = st.none() | st.booleans() | st.integers(-9, 99) | words | st.floats(allow_nan=False, allow_infinity=False)
    keys = st.sampled_from(["a", "b", "c d", "train", "1", ""]) | words
    trees = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
    )
    mappings = st.dictionaries(keys, trees, min_size=1, max_size=4)
    before, after = data.draw(mappings), data.draw(mappings)
    if data.draw(st.booleans()):
        after = {**copy.deepcopy(before), **after}
    text = as_json(before) if data.draw(st.booleans()) or _lists_of_lists(before) else to_yaml(before)
    if parse(text).faults:
        return
    made = revise(text, after)
    assert same(parse(made).value, after)


def _lists_of_lists(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any((isinstance(value, list) and isinstance(entry, list)) or _lists_of_lists(entry) for entry in inner)


def test_comments_stay_in_their_column():
    text = "train:\n  steps: 800    # how long\n  lr: 1e-4      # how fast\n"
    assert set_value(text, "train.steps", 8) == "train:\n  steps: 8      # how long\n  lr: 1e-4      # how fast\n"
    assert (
        set_value(text, "train.steps", 12345678)
        == "train:\n  steps: 12345678  # how long\n  lr: 1e-4      # how fast\n"
    )


def test_a_switch_is_no_number():
    assert not same(1, True)
    assert not same({"a": [0]}, {"a": [False]})
    assert same({"a": (1,)}, {"a": [1.0]})
    assert set_value("train:\n  batch: 1\n", "train.batch", True) == "train:\n  batch: true\n"


def test_a_member_keeps_what_both_have():
    text = "train:\n  steps: 5\n  optimizer:  # mine\n    name: adamw\n    betas: [0.8, 0.9]\n    weight_decay: 0.1  # keep\n"
    after = set_value(text, "train.optimizer", "adafactor")
    assert parse(after).value["train"]["optimizer"] == {"name": "adafactor", "weight_decay": 0.1}
    assert "# mine" in after
    assert "# keep" in after


HOSTILE = {
    "anchor": "train: &a {steps: 1}\nsample: *a\n",
    "tag": "train: !!python/object/apply:os.system ['true']\n",
    "merge": "a: {<<: {b: 1}}\n",
    "bomb": "a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]\n",
    "megabyte": "x: " + "y" * 10**6,
    "deep lists": "[" * 20000,
    "deep mappings": "{a: " * 20000,
    "deep indentation": "".join(" " * n + "a:\n" for n in range(300)),
    "many keys": "".join(f"k{n}: 1\n" for n in range(5000)),
    "control": "a: \x00b\n",
    "surrogate": "a: \ud800\n",
    "directive": "%YAML 1.1\n---\na: 1\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "tab": "train:\n\tsteps: 1\n",
    "unclosed": "train: {steps: 1\n",
    "quote": "train: 'x\n",
    "twice": "train: {steps: 1, steps: 2}\n",
    "list": "- a\n",
    "scalar": "hello",
    "empty": "",
    "null": "null\n",
    "infinity": "train: {lr: .inf}\n",
    "number": "train: {steps: " + "9" * 5000 + "}\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_a_problem_with_its_line(name):
    text = HOSTILE[name]
    began = time.process_time()
    found = read(text)
    assert time.process_time() - began < 2
    assert isinstance(found, list)
    assert found
    for problem in found:
        assert 1 <= problem.line <= text.count("\n") + 1
        assert problem.column >= 1
        assert problem.message
        assert "Traceback" not in str(problem)
    for action in (lambda: values(text), lambda: set_value(text, "train.steps", 3), lambda: reset(text, "train.steps")):
        try:
            action()
        except TunerError as error:
            assert error.message


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}#&*!|>'\"%@`,? \n\t\r0\\~"), max_size=40) | st.text(max_size=60))
def test_whatever_is_typed_is_read_or_refused(text):
    found = read(text)
    assert isinstance(found, Reading) or all(isinstance(problem.line, int) for problem in found)
    try:
        before = values(text)
    except RecipeError:
        return
    try:
        after = set_value(text, "train.lr", 0.25)
    except UsageError:
        return
    assert values(after)["train.lr"] == 0.25
    assert {path: value for path, value in values(after).items() if path in before and path != "train.lr"} == {
        path: value for path, value in before.items() if path != "train.lr"
    }


MISTAKES = [
    ("rank: 16", "rnk: 16", "adapters.0.rnk", "unknown key", "did you mean 'rank'?"),
    ("rank: 16", "rank: many", "adapters.0.rank", "must be a whole number", ""),
    ("steps: 800", "steps: 0", "train.steps", "must be at least 1", ""),
    ("name: lora", "name: lorra", "adapters.0.name", "unknown adapter 'lorra'", "did you mean 'lora'?"),
    ("generate: 200", "generate: -1", "data.prior.0.generate", "must be at least 1", ""),
    (
        "caption: a photo of sks dog",
        "capton: a photo of sks dog",
        "data.instance.0.capton",
        "unknown key",
        "did you mean 'caption'?",
    ),
    ("seed: 0", "seed: 0\n  precision: half", "train.precision", "must be one of", ""),
]


@pytest.mark.parametrize(
    ("old", "new", "path", "message", "hint"), MISTAKES, ids=[new.split("\n")[-1] for _, new, *_ in MISTAKES]
)
def test_a_problem_names_its_line_its_field_and_what_to_do(old, new, path, message, hint):
    text = text_of("dreambooth_lora").replace(old, new, 1)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if new.split("\n")[-1].strip() in row)
    (problem,) = problems(text)
    assert (problem.line, problem.path) == (line, path)
    assert message in problem.message
    assert hint in problem.hint


def test_every_problem_is_told_at_once():
    text = (
        text_of("lora")
        .replace("rank: 16", "rank: no")
        .replace("steps: 1000", "steps: 0")
        .replace("seed: 0", "seeed: 0")
    )
    found = problems(text)
    assert [problem.path for problem in found] == ["adapters.0.rank", "train.steps", "train.seeed"]
    assert [problem.line for problem in found] == sorted(problem.line for problem in found)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "train",
        "nothing",
        "train.lr.x",
        "__class__",
        "data.prior.0.nope",
        "adapters.9.rank",
        "../x",
        "train.ema.decay",
    ],
)
def test_a_path_that_the_form_has_not_is_refused(path):
    with pytest.raises(UsageError):
        set_value(text_of("dreambooth_lora"), path, 1)


def test_what_has_no_default_cannot_be_reset():
    for path in ("backbone.model", "backbone", "task", "adapters.0"):
        with pytest.raises(UsageError, match="no default"):
            reset(text_of("dreambooth_lora"), path)


@pytest.mark.parametrize("name", SEVERAL)
def test_widgets_give_back_what_they_were_shown(name):
    made = form_of(text_of(name))
    for group in made.groups:
        for field in group.fields:
            value = made.values[field.path]
            assert same(taken(field, shown(field, value)), value), field.path


def test_widgets_refuse_in_plain_words():
    made = form_of(text_of("lora"))
    for path, given_ in [("train.lr", "fast"), ("train.batch", 1.5), ("train.batch", None), ("data.flip", "yes"),
                         ("data.crop", "round"), ("sample.every", "{a: *x}"), ("train.lr", True)]:  # fmt: skip
        field = made.field(path)
        with pytest.raises(UsageError, match=re.escape(field.label)):
            taken(field, given_)
    assert taken(made.field("train.lr"), "1e-3") == 1e-3
    assert taken(made.field("train.batch"), 2.0) == 2
    assert taken(made.field("sample.prompts"), "a\n\n b ") == ["a", "b"]
    assert taken(made.field("data.trigger"), "") is None
