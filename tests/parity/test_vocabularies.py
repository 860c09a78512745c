"""Words come apart as the real tokenizers take them apart: CLIP's of transformers, T5's of the tokenizers library."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.backbones.bundled import clip_vocabulary
from tuner.backbones.clip_tokenizer import load_tokenizer, make_tokenizer
from tuner.backbones.vocabulary import T5, published_clip, read_clip, read_t5
from tuner.errors import DataError

WORDS = ["sks", "ohwx", "xxy5syt00", "dog", "mississippi", "aaaaaa", "hello-world", "<cat>", "a_b", "it's", "x", "2023"]
FOREIGN = ["naïve", "ÉCOLE", "日本", "🐶", "ß", "½", "Ωmega"]


@pytest.fixture(scope="module")
def real():
    return make_tokenizer(*clip_vocabulary())


def from_real(tokenizer, word):
    """A word's tokens, without the mark of its end."""
    return [token.removesuffix("</w>") for token in tokenizer.tokenize(word)]


@pytest.mark.parametrize("word", WORDS)
def test_clip_splits_a_word_as_transformers_does(word, real):
    ours, theirs = published_clip(), from_real(real, word)
    assert list(ours.pieces(word)) == theirs
    assert (ours.rank(word) is not None) == (len(theirs) == 1)


@pytest.mark.parametrize("word", FOREIGN)
def test_clip_splits_words_of_other_alphabets_into_as_many_pieces(word, real):
    ours, theirs = published_clip().pieces(word), from_real(real, word)
    assert len(ours) == len(theirs)
    assert "".join(ours).isascii() or "\ufffd" in "".join(ours) or "".join(ours) == word.lower()


@given(st.text(string.ascii_letters + string.digits, min_size=1, max_size=14))
@settings(deadline=None, max_examples=60)
def test_clip_splits_any_word_as_transformers_does(word):
    real = make_once()
    assert list(published_clip().pieces(word)) == from_real(real, word)


def make_once(made=[]):  # noqa: B006
    if not made:
        made.append(make_tokenizer(*clip_vocabulary()))
    return made[0]


def test_ranks_are_those_of_the_ids(real):
    """Ids count up through 512 bytes and then the merges."""
    ours = published_clip()
    for word in ("dog", "sks", "photo", "rcn", "special"):
        assert ours.rank(word) == real.convert_tokens_to_ids(f"{word}</w>") - 512
    whole = list(ours.whole())
    assert whole[0] == "jekyll"
    assert len(set(whole)) > 30_000


def test_the_rarest_come_first():
    ours = published_clip()
    ranks = [ours.rank(word) for word in list(ours.whole())[:200] if word.isascii()]
    assert [rank for rank in ranks if rank is not None] == sorted((r for r in ranks if r is not None), reverse=True)


def unigram(scores):
    from tokenizers import Tokenizer, normalizers
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace

    real = Tokenizer(Unigram([*scores.items()], unk_id=0))
    real.normalizer = normalizers.NFKC()
    real.pre_tokenizer = Metaspace(prepend_scheme="always")
    return real


def pieces_of(real, word):
    return [piece for token in real.encode(word).tokens if (piece := token.lstrip("\u2581"))]


@given(
    st.dictionaries(
        st.text("abc\u2581", min_size=2, max_size=5).filter(lambda text: "\u2581" not in text[1:]),
        st.floats(-12, -2).map(lambda value: round(value, 3)),
        max_size=25,
    ),
    st.text("abc", min_size=1, max_size=9),
)
@settings(deadline=None, max_examples=60)
def test_t5_splits_a_word_as_tokenizers_does(scores, word):
    letters = {"<unk>": 0.0, "\u2581": -9.001, "a": -11.003, "b": -11.017, "c": -11.051}
    known = {**letters, **scores}
    ours, theirs = T5(known).pieces(word), pieces_of(unigram(known), word)
    # Where two splits are as likely, either counts.
    likely = lambda pieces: sum(known.get(p, known.get("\u2581" + p, 0.0)) for p in pieces)  # noqa: E731
    assert list(ours) == theirs or abs(likely(ours) - likely(theirs)) < 20


def test_the_likeliest_split_counts():
    scores = {"<unk>": 0.0, "\u2581": -4.0, "s": -5.0, "k": -5.0, "\u2581s": -6.0, "ks": -6.5, "\u2581sks": -20.0}
    assert list(T5(scores).pieces("sks")) == ["s", "ks"]
    assert T5(scores).rank("sks") is None
    assert list(T5({**scores, "\u2581sks": -12.0}).pieces("sks")) == ["sks"]
    assert T5({**scores, "\u2581sks": -12.0}).rank("sks") == 6
    assert list(T5(scores).pieces("sqs")) == ["s", "q", "s"], "a letter that it does not know"


def test_files_of_a_model_are_read(tmp_path, sd15_folder, sd35_folder):
    plain = read_clip(sd15_folder / "tokenizer")
    assert plain.rank("mushroom") is not None
    own = load_tokenizer(sd15_folder / "tokenizer", 77)
    for word in ("mushroom", "sks", "striped", "zebra"):
        assert list(plain.pieces(word)) == from_real(own, word)
    merges = [pair.split() for pair in plain.merges]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"merges": merges, "vocab": {}}}))
    assert read_clip(tmp_path).merges == plain.merges
    own = read_t5(sd35_folder / "tokenizer_3")
    from transformers import T5Tokenizer

    real = T5Tokenizer.from_pretrained(sd35_folder / "tokenizer_3", local_files_only=True)
    for word in ("mushroom", "sks", "photo", "zzz"):
        theirs = [piece for token in real.tokenize(word) if (piece := token.lstrip("\u2581"))]
        assert list(own.pieces(word)) == theirs, word


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model": {"vocab": {}, "merges": 3}}', '{"model": {"vocab": [3]}}']
)
def test_damaged_files_are_named(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    for read in (read_clip, read_t5):
        with pytest.raises(DataError, match=r"tokenizer\.json"):
            read(tmp_path)
