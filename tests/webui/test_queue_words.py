"""The arguments of each kind of job say to the command line what was meant, whatever a user typed."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.cli import app
from webui.jobs import words

RUN = Path("/w/runs/dog-1")
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
NASTY = ("--json", "-n", "--", "-", "", "; rm -rf ~", "$(id)", "a\nb", "=", "--seed=3", "'\"\\", "--help", "@file")
TYPED = TEXTS | st.sampled_from(NASTY)


@cache
def commands():
    return typer.main.get_command(app).commands


def understood(given_words):
    """What the command line makes of words: command and parameters."""
    name, *rest = given_words
    return name, commands()[name].make_context(name, rest).params


@settings(deadline=None, max_examples=60)
@given(prompts=st.lists(TYPED, min_size=1, max_size=3), negative=TYPED)
def test_prompts_arrive_as_they_were_typed(prompts, negative):
    made = words.generate(
        prompts, Path("/w/jobs/1/pictures"), [(RUN, 0.8), (Path("/w/a.safetensors"), 1)],
        negative=negative, seed=3, steps=None, guidance=7.5, size="512x768",
    )  # fmt: skip
    name, found = understood(made)
    assert name == "generate"
    assert list(found["prompts"]) == prompts
    assert found["negative"] == negative
    assert list(found["adapters"]) == ["/w/runs/dog-1:0.8", "/w/a.safetensors:1"]
    assert (found["seed"], found["steps"], found["guidance"], found["size"]) == (3, None, 7.5, "512x768")
    assert found["out"] == Path("/w/jobs/1/pictures")
    assert found["as_json"] is True


@settings(deadline=None, max_examples=40)
@given(prompts=st.lists(TYPED, min_size=1, max_size=3), negative=TYPED)
def test_the_line_for_a_terminal_means_the_same(prompts, negative):
    made = words.generate(prompts, Path("/w/out"), negative=negative)
    first, *typed = shlex.split(words.command_line(made))
    assert first == "tuner"
    _, shown = understood(typed)
    _, meant = understood(made)
    assert shown == {**meant, "as_json": False}


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (words.train("lora", RUN), "tuner run --run-dir /w/runs/dog-1 lora"),
        (
            words.train(Path("/w/jobs/1/recipe.yaml"), RUN, changes=["train.steps=5"], rehearse=True, new=True),
            "tuner run --rehearse --new --run-dir /w/runs/dog-1 /w/jobs/1/recipe.yaml train.steps=5",
        ),
        (words.quickstart(RUN, backbone="sd35"), "tuner quickstart --backbone=sd35 --run-dir /w/runs/dog-1"),
        (words.export(RUN, "kohya", Path("/w/a.safetensors")), "tuner export --to=kohya --out=/w/a.safetensors /w/runs/dog-1"),
        (words.evaluate(RUN, step=200, per_prompt=2), "tuner eval --step=200 --per-prompt=2 /w/runs/dog-1"),
        (words.generate(["-x", "a b"], Path("o"), count=2), "tuner generate --count=2 --out=o -- -x 'a b'"),
    ],
    ids=["train", "train-all", "quickstart", "export", "eval", "generate"],
)  # fmt: skip
def test_each_kind_is_a_command_that_can_be_typed(made, shown):
    assert words.command_line(made) == shown
    name, found = understood(made)
    assert found["as_json"] is True
    assert understood(shlex.split(shown)[1:]) == (name, {**found, "as_json": False})


def test_every_option_offered_is_one_of_the_command():
    """A word of `generate`'s documented options that the command does not have would fail only when it is used."""
    offered = re.findall(r"[a-z]+", words.generate.__doc__.split("by name:")[1].split(";")[0])
    known = {option for one in commands()["generate"].params for option in one.opts}
    assert {f"--{name}" for name in offered} <= known
