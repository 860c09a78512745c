"""A CLIP-style byte-pair vocabulary made by code: every byte, and the words of the small captioned world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .captions import spoken

if TYPE_CHECKING:
    from collections.abc import Sequence

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
"""Tokens a caption may have, the start and end marks included; the text model has as many positions."""


def byte_characters() -> list[str]:
    """The printable stand-in for each of the 256 bytes, in CLIP's order (Radford et al. 2019, byte-level BPE)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(hidden))]


def merges(words: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """The merges that build each word from the left, in order of first need; of the world's words unless given.

    Every other word, such as `sks`, is spelt in bytes.
    """
    found: dict[tuple[str, str], None] = {}
    for word in words or spoken():
        pieces = [*word[:-1], word[-1] + "</w>"]
        head = pieces[0]
        for piece in pieces[1:]:
            found.setdefault((head, piece))
            head += piece
    return list(found)


def vocabulary(pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Token ids in CLIP's layout: bytes, bytes that end a word, merges, start and end mark."""
    characters = byte_characters()
    tokens = [*characters, *(c + "</w>" for c in characters), *(a + b for a, b in pairs), START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def tokenizer_files(length: int = LENGTH, pad: str = END) -> dict[str, str | dict[str, object]]:
    """The files of a `tokenizer` folder by name: JSON trees, or text.

    Args:
        length: positions of the text model.
        pad: what fills a caption up; Stable Diffusion 3's second tokenizer takes `!`.
    """
    pairs = merges()
    marks: dict[str, object] = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    return {
        "vocab.json": dict(vocabulary(pairs)),
        "merges.txt": "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in pairs)]) + "\n",
        "special_tokens_map.json": marks,
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": length,
            "do_lower_case": True,
            **marks,
        },
    }
