"""Words of several vectors are written out as diffusers does it, whatever the prompt."""

from __future__ import annotations

import pytest
from diffusers import StableDiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.backbones import new_words
from tuner.backbones.clip_tokenizer import load_tokenizer, token_rows

WORDS = {"<one>": 1, "<two>": 2, "<many>": 12}


@pytest.fixture(scope="module")
def tokenizer(sd15_folder):
    made = load_tokenizer(sd15_folder / "tokenizer", 77)
    for token, count in WORDS.items():
        new_words.add(made, token, count)
    return made


def test_ids_are_the_next_free_ones(sd15_folder):
    made = load_tokenizer(sd15_folder / "tokenizer", 77)
    size = len(made)
    assert new_words.add(made, "<toy>", 3) == [size, size + 1, size + 2]
    assert len(made) == size + 3
    with pytest.raises(ValueError, match="a word already"):
        new_words.add(made, "<toy>", 1)


@given(st.lists(st.sampled_from([*WORDS, "a", "photo of", "dog,", "<", ">", "two"]), max_size=8))
@settings(max_examples=60, deadline=None)
def test_it_is_what_diffusers_makes_of_it(tokenizer, parts):
    prompt = " ".join(parts)
    assert issubclass(StableDiffusionPipeline, TextualInversionLoaderMixin)
    theirs = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
    assert new_words.spread(tokenizer, prompt) == theirs


def test_each_vector_takes_a_place_and_what_is_cut_is_told_as_it_was_written(tokenizer):
    rows, cut = token_rows(tokenizer, ["a <two> dog", "a <one> dog", "<many> " * 7 + "<two> dog"], 77)
    size = len(tokenizer)
    first = size - sum(WORDS.values())
    assert [i for i in rows[0] if i >= first] == [first + 1, first + 2]
    assert [i for i in rows[1] if i >= first] == [first]
    assert cut == ["", "", "<two> dog"] or cut[2].endswith("<two> dog")


def test_a_tokenizer_without_new_words_is_left_alone(sd15_folder):
    plain = load_tokenizer(sd15_folder / "tokenizer", 77)
    assert new_words.spread(plain, "a <two> dog") == "a <two> dog"
