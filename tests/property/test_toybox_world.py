"""The drawn world: what a caption says is what the picture shows, and a seed gives the same at any time."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.draws import Draws
from tuner.toybox import world
from tuner.toybox.captions import NUMBERS, OPPOSITE, article, plural
from tuner.toybox.ink import COLOURS
from tuner.toybox.making import families
from tuner.toybox.settings import SETTINGS

SEEDS = st.integers(0, 2**40)


def scene_of(seed: int, kind: str | None = None) -> world.Scene:
    return world.sample(Draws(seed).generator("scene"), kind)


def said_of(scene: world.Scene, seed: int) -> str:
    return world.caption(scene, Draws(seed).generator("caption"))


@given(SEEDS)
@settings(max_examples=40)
def test_a_seed_gives_the_same_picture_and_words(seed):
    one, two = scene_of(seed), scene_of(seed)
    assert np.array_equal(world.render(one), world.render(two))
    assert said_of(one, seed) == said_of(two, seed)
    assert world.render(one).size == (world.SIZE, world.SIZE)
    assert world.render(one).mode == "RGB"


@given(SEEDS, SEEDS)
@settings(max_examples=300)
def test_a_caption_says_nothing_wrong(seed, wording):
    scene = scene_of(seed)
    said = said_of(scene, wording)
    words = set(said.split())
    names = {thing.name for thing in scene.things}
    assert words & (names | {plural(name) for name in names}), said
    colours = {thing.colour for thing in scene.things}
    on = re.search(r" on (?:an? )?(\w+)(?: background)?$", said)
    backgrounds = {on[1]} if on and on[1] in COLOURS else set()
    assert backgrounds <= {scene.background}, said
    assert (words & set(COLOURS)) <= colours | backgrounds, said
    assert not (words & set(world.CLASSES)) - names, said
    assert all(scene.background == name for name, found in SETTINGS.items() if said.endswith(found.phrase)), said


@given(SEEDS, SEEDS)
@settings(max_examples=200)
def test_a_relation_said_from_either_side_is_the_drawn_one(seed, wording):
    scene = scene_of(seed, "pair")
    first, second = scene.things
    axis = 0 if scene.relation == "left of" else 1
    assert first.place[axis] < second.place[axis]
    said = said_of(scene, wording)
    turned = OPPOSITE[scene.relation or ""]
    if f" {turned} " in said:
        before, after = said.split(f" {turned} ")
        assert f"{second.colour} {second.name}" in before
        assert f"{first.colour} {first.name}" in after
    elif f" {scene.relation} " in said:
        before, after = said.split(f" {scene.relation} ")
        assert f"{first.colour} {first.name}" in before
        assert f"{second.colour} {second.name}" in after
    else:
        assert " and " in said


@given(SEEDS)
@settings(max_examples=100)
def test_counts_are_said_in_the_plural(seed):
    scene = scene_of(seed, "count")
    said = world.full(scene)
    assert said.startswith(NUMBERS[len(scene.things)])
    assert plural(scene.things[0].name) in said


@given(SEEDS)
@settings(max_examples=100)
def test_things_lie_inside_the_picture(seed):
    scene = scene_of(seed)
    for thing in scene.things:
        assert all(0.1 < along < 0.9 for along in thing.place)
        assert thing.colour != scene.background


@given(SEEDS)
@settings(max_examples=60)
def test_every_word_is_known_or_made_up(seed):
    known = set(world.spoken())
    scene = scene_of(seed)
    strange = [word for word in said_of(scene, seed).split() if word not in known]
    assert len(strange) <= 1
    assert all(re.fullmatch("[a-z]{2,4}", word) for word in strange)
    assert set(world.full(scene).split()) <= known


@given(st.integers(0, 10**6))
@settings(max_examples=40)
def test_a_subject_is_itself_in_every_pose(seed):
    subject = world.Subject.make(seed)
    assert subject == world.Subject.make(seed)
    assert len(set(subject.hues)) == 4
    scenes = [subject.scene(Draws(n).generator("pose")) for n in range(4)]
    assert len({scene.things[0].ink for scene in scenes}) == 1
    assert len({scene.things[0].turn for scene in scenes}) == 4
    assert all(scene.background not in subject.hues for scene in scenes)
    assert world.Subject.make(seed, "ring").ink == subject.ink


@pytest.mark.parametrize(
    "make",
    [lambda n: world.Subject.make(7).photos(n, 64), lambda n: [p for p, _ in world.Style.make(7).pictures(n, 64)]],
)
def test_a_longer_series_begins_with_the_shorter(make):
    few, many = make(2), make(4)
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    assert not np.array_equal(many[2], many[3])


def test_subjects_and_styles_of_other_seeds_differ():
    assert len({world.Subject.make(seed).ink for seed in range(50)}) > 45
    assert len({(style.shades, style.frame, style.texture) for style in map(world.Style.make, range(50))}) > 45


@pytest.mark.parametrize("name", world.CLASSES)
@pytest.mark.parametrize("colour", ["red", "white", "black"])
def test_a_plain_thing_has_its_colour(name, colour):
    thing = world.Thing(name, colour)
    drawn = np.asarray(world.render(world.Scene((thing,), "blue"))).reshape(-1, 3)
    share = (np.abs(drawn.astype(int) - COLOURS[colour]).sum(1) < 12).mean()
    assert 0.04 < share < 0.4
    assert (np.abs(drawn.astype(int) - COLOURS["blue"]).sum(1) < 12).mean() > 0.5


def test_the_world_is_as_rich_as_promised():
    assert len(world.CLASSES) >= 12
    assert len(world.COLOURS) >= 12
    kinds = {scene_of(seed).kind for seed in range(200)}
    assert kinds == {"single", "pair", "count", "word"}
    styles = {scene_of(seed, "single").style for seed in range(300)}
    assert styles == {None, *world.STYLES}


@given(SEEDS, st.sampled_from(["renamed", "recoloured", "exchanged"]))
@settings(max_examples=150)
def test_a_family_differs_in_one_thing_and_says_so(seed, way):
    """Every member is another caption of the same scene, nothing else about it changes, and its colour shows."""
    scene = scene_of(seed, "pair" if way == "exchanged" else "single")
    members = getattr(families, way)(scene)
    assert members[0] == scene
    said = [world.full(member) for member in members]
    if len({thing.name for thing in scene.things}) == len(scene.things):
        assert len(set(said)) == len(members)
    for member in members:
        assert (member.background, member.seed, member.style) == (scene.background, scene.seed, scene.style)
        for thing, own in zip(member.things, scene.things, strict=True):
            assert (thing.place, thing.scale, thing.turn) == (own.place, own.scale, own.turn)
            if way == "recoloured":
                assert world.shows(thing.colour, member.background)
        if way == "exchanged":
            assert sorted(t.name for t in member.things) == sorted(t.name for t in scene.things)
            assert sorted(t.colour for t in member.things) == sorted(t.colour for t in scene.things)
    if way == "renamed":
        assert sorted(member.things[0].name for member in members) == sorted(world.CLASSES)


def test_articles():
    assert (article("orange star"), article("red star")) == ("an orange star", "a red star")


def test_contexts_take_any_subject():
    said = [context.format("a sks fish") for context in world.contexts()]
    assert len(set(said)) == len(world.BACKGROUNDS)
    assert all(text.startswith("a sks fish ") for text in said)
