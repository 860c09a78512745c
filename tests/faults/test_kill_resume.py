"""A run that is killed anywhere and goes on leaves the same bits behind; and a run that resumes wrongly is noticed."""

from __future__ import annotations

import itertools
import os
import platform
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from engine_hooks import MUTANTS
from kill_harness import GROUPS, NO_PROOF, Killing, leftovers, recipe, summary

FAST = {"train.steps": 9}


@pytest.fixture(scope="module")
def killing(fork_server, seed_cache, drawn_pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    return Killing(fork_server, recipe(drawn_pictures, **FAST), folder, seed_cache, hooks=NO_PROOF)


def test_the_recipe_has_everything_random(killing, drawn_pictures):
    """What is compared holds every kind of state: else equal bits would say little."""
    names = "\n".join(killing.expected)
    for part in (
        "text_encoder",
        "ema.safetensors",
        "optimizer.safetensors",
        "tally.loss",
        "guard.skipped",
        "sample 5/0.png",
        "metric 6 loss",
    ):
        assert part in names
    from tuner.data import buckets
    from tuner.data.scan import scan
    from tuner.recipe import Recipe
    from tuner.watch import Watcher

    made = Recipe.model_validate(recipe(drawn_pictures))
    found = scan(made, decode=False, watcher=Watcher()).examples["instance"]
    assert len({buckets.size_for(e.size, made.data) for e in found}) >= 3
    assert not leftovers(killing.reference / "run")


@pytest.mark.parametrize(("number", "group"), list(enumerate(GROUPS * 3)))
def test_killed_and_resumed_is_bitwise_the_same(killing, number, group):
    story = killing.story(f"story{number}", group, random.Random(number), chain=1 + number % 3)
    assert story.good, (story.places, story.unequal[:10], story.leftovers[:10])


def test_killed_within_the_last_rotation(killing):
    """No later save would tidy up after it."""
    folder = killing.folder / "rotation"
    hooks = {**NO_PROOF, "die_while_rotating": None}
    end = killing.server.run(killing.tree, folder, cache=killing.cache(folder), hooks=hooks)
    assert end.killed
    story = killing.compared(folder, [end.place], 0, end)
    assert story.good, (story.unequal[:10], story.leftovers)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_resume_is_noticed(mutant, fork_server, shared_cache, drawn_pictures, tmp_path):
    """Killed after step 5: a checkpoint at 4 lies behind it, and a log interval is open there."""
    tree = recipe(drawn_pictures, **{"train.steps": 6, "sample": None})
    killing = Killing(fork_server, tree, tmp_path, shared_cache, hooks={**NO_PROOF, mutant: None})
    story = killing.at("killed", {"group": "steps", "step": 5, "delay_s": 0.0})
    assert story.places == [("steps", 5)]
    kind = "metric" if mutant == "statistics_not_restored" else "adapter/"
    assert any(name.startswith(kind) for name in story.unequal), story.unequal


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_hundred_kills(fork_server, seed_cache, drawn_pictures, tmp_path):
    began, draws = time.monotonic(), random.Random(100)
    killing = Killing(fork_server, recipe(drawn_pictures), tmp_path, seed_cache)
    quota = {"caching": 25, "steps": 50, "sampling": 10, "saving": 15}
    stories = []
    for number, group in enumerate(itertools.chain.from_iterable([g] * n for g, n in quota.items())):
        stories.append(killing.story(f"s{number}", group, draws, chain=draws.choice((1, 1, 2, 3))))
        story = stories[-1]
        print(
            f"{number:3d} {story.places} missed {story.missed} {'equal' if story.good else story.unequal[:3] + story.leftovers[:3]}",
            flush=True,
        )
    text = summary(stories)
    seconds = time.monotonic() - began
    steps = Counter(step for story in stories for group, step in story.places if group == "steps")
    print(text)
    written = os.environ.get("TUNER_PROOF")
    if written:
        Path(written).write_text(proof(text, stories, len(killing.expected), steps, seconds))
    assert len(stories) == 100
    assert all(story.good for story in stories), text


def proof(text, stories, compared, steps, seconds) -> str:
    """The record of one run of the hundred, as plain text."""
    import torch

    machine = (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    )
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, 1 thread"
    lines = [
        "A hundred runs, each killed by SIGKILL at a drawn moment (some of them twice or three times) and started again.",
        "A kill counts only where the process died of it. Compared with one undisturbed run, bit for bit:",
        f"{compared} values: every tensor of every adapter file and of the newest checkpoint (weights, optimizer moments,",
        "average, counters), the files of every checkpoint, every sample picture, the last value of every metric but speed.",
        "",
        f"machine: {machine}; {versions}",
        "command: TUNER_PROOF=docs/proofs/kill_resume.txt python -m pytest tests/faults/test_kill_resume.py -m slow",
        f"date: {time.strftime('%Y-%m-%d')}; {seconds / 60:.0f} minutes",
        "",
        text,
        "steps done when killed while stepping: " + ", ".join(f"{step}: {n}" for step, n in sorted(steps.items())),
        "",
        "run  killed at (phase, steps done)  result",
    ]
    for number, story in enumerate(stories):
        places = ", then ".join(f"{group} {step}" for group, step in story.places)
        lines.append(
            f"{number:3d}  {places}  {'equal' if story.good else 'DIFFERENT: ' + ', '.join(story.unequal[:5])}"
        )
    return "\n".join(lines) + "\n"
