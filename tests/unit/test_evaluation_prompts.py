"""Prompts of the yardstick: what is said of which subject, and which set fits."""

from __future__ import annotations

import pytest

from tuner.errors import UsageError
from tuner.evaluation import prompts


@pytest.mark.parametrize(
    ("caption", "thing"),
    [
        ("a photo of sks dog", "sks dog"),
        ("A painting of the old sks boat", "the old sks boat"),
        ("sks dog", "sks dog"),
        ("a photo of a dog", "a dog"),
        ("an image of a glass of water", "a glass of water"),
        ("a photo of ", "a photo of"),
    ],
)
def test_the_thing_that_a_caption_names(caption, thing):
    assert prompts.noun(caption) == thing


@pytest.mark.parametrize(
    ("template", "thing", "said"),
    [
        ("a photo of {} in the snow", "sks dog", "a photo of sks dog in the snow"),
        ("{a} in the snow", "sks dog", "a sks dog in the snow"),
        ("{a} in the snow", "a dog", "a dog in the snow"),
        ("{a} in the snow", "owl", "an owl in the snow"),
        ("a red {bare}", "a dog", "a red dog"),
        ("a red {bare}", "sks dog", "a red sks dog"),
        ("{other} {} {0}", "dog", "{other} dog {0}"),
    ],
)
def test_a_template_takes_the_thing(template, thing, said):
    assert prompts.fill(template, thing) == said


def test_braces_in_a_name_stay_what_they_are():
    assert prompts.fill("a photo of {}", "{a} {bare}") == "a photo of {a} {bare}"


def test_the_papers_sets_have_25_different_prompts():
    for chosen in (prompts.OBJECTS, prompts.LIVE):
        filled = [prompts.fill(context, "sks toy") for context in chosen.contexts]
        assert len(set(filled)) == 25
        assert all("a sks toy" in text or text.endswith("sks toy") for text in filled)
    assert "a sks toy with the Eiffel Tower in the background" in [
        prompts.fill(c, "sks toy") for c in prompts.OBJECTS.contexts
    ]
    assert "a sks dog wearing a santa hat" in [prompts.fill(c, "sks dog") for c in prompts.LIVE.contexts]


@pytest.mark.parametrize(
    ("asked", "on_toybox", "noun", "name"),
    [
        (None, True, "a mushroom", "toybox"),
        (None, False, "a dog", "live"),
        (None, False, "a stuffed animal", "objects"),
        (None, False, "", "objects"),
        ("objects", True, "a dog", "objects"),
    ],
)
def test_the_set_that_fits(asked, on_toybox, noun, name):
    assert prompts.choose(asked, on_toybox=on_toybox, class_noun=noun).name == name


def test_own_prompts_are_sorted_by_whether_they_hold_the_subject(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("# mine\na photo of {} on Mars\n\na lake\n", encoding="utf-8-sig")  # as Notepad may save it
    found = prompts.choose(str(file), on_toybox=False, class_noun="")
    assert (found.contexts, found.unrelated) == (("a photo of {} on Mars",), ("a lake",))


def test_prompts_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no prompts 'nowhere'"):
        prompts.choose("nowhere", on_toybox=False, class_noun="")
    (tmp_path / "none.txt").write_text("a lake\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no line holds"):
        prompts.own(tmp_path / "none.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00{}")
    with pytest.raises(UsageError, match="cannot be read"):
        prompts.own(tmp_path / "bytes.txt")
