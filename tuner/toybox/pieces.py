"""T5's vocabulary of pieces, made by code: the words of the small captioned world, and letters for every other word."""

from __future__ import annotations

from .captions import spoken

PAD, END, UNKNOWN, SPACE = "<pad>", "</s>", "<unk>", "▁"
SPACE_SCORE, WORD_SCORE, LETTER_SCORE = -2.0, -3.0, -6.0
"""Log-likelihoods in the sense of Kudo 2018: a word is likelier than its letters, so it is never spelt."""


def vocabulary() -> list[tuple[str, float]]:
    """Pieces with their scores in T5's order: marks, the space, words, letters; the place is the id."""
    letters = [chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0x100)) if chr(code).isprintable()]
    return [
        *((mark, 0.0) for mark in (PAD, END, UNKNOWN)),
        (SPACE, SPACE_SCORE),
        *((SPACE + word, WORD_SCORE) for word in spoken()),
        *((letter, LETTER_SCORE) for letter in letters),
    ]


def tokenizer_files() -> dict[str, dict[str, object]]:
    """The files of a `tokenizer_3` folder by name, as JSON trees.

    `tokenizer.json` holds what T5Tokenizer builds from a vocabulary; there is no `spiece.model`, which holds the same.
    """
    space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": END, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    marks = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": n, "content": mark, **plain} for n, mark in enumerate((PAD, END, UNKNOWN))],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [first, end],
                "pair": [first, end, second, end],
                "special_tokens": {END: {"id": END, "ids": [1], "tokens": [END]}},
            },
            "decoder": space,
            "model": {
                "type": "Unigram",
                "unk_id": 2,
                "vocab": [list(entry) for entry in vocabulary()],
                "byte_fallback": False,
            },
        },
        "special_tokens_map.json": dict(marks),
        "tokenizer_config.json": {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0, **marks},
    }
