"""Words that a tokenizer did not know: named as diffusers names them, and spread over several vectors as it does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def names(token: str, count: int) -> list[str]:
    """What the vectors of a word are called: `<toy>`, `<toy>_1`, `<toy>_2` ..."""
    return [token, *(f"{token}_{number}" for number in range(1, count))]


def add(tokenizer: Any, token: str, count: int) -> list[int]:
    """Teach a tokenizer a word of `count` vectors; gives their ids, the next free ones.

    Raises: ValueError where it knows the word.
    """
    if known(tokenizer, token):
        raise ValueError(f"{token} is a word already")
    words = names(token, count)
    tokenizer.add_tokens(words)
    return [int(number) for number in tokenizer.convert_tokens_to_ids(words)]


def known(tokenizer: Any, token: str) -> bool:
    """Whether a tokenizer has a token, or the second vector, of this very name."""
    vocabulary = tokenizer.get_vocab()
    return token in vocabulary or f"{token}_1" in vocabulary


def spread(tokenizer: Any, prompt: str) -> str:
    """The prompt with each word of several vectors written out, as `maybe_convert_prompt` of diffusers does."""
    for token, written in _written_out(tokenizer, prompt):
        prompt = prompt.replace(token, written)
    return prompt


def gathered(tokenizer: Any, text: str, prompt: str) -> str:
    """Undo `spread` in a part of the prompt, for messages."""
    for token, written in _written_out(tokenizer, prompt):
        text = text.replace(written, token)
    return text


def _written_out(tokenizer: Any, prompt: str) -> Sequence[tuple[str, str]]:
    """The words in the prompt that have several vectors, and how they are written."""
    if "_1" not in (added := " ".join(tokenizer.added_tokens_encoder)):
        return ()
    firsts = re.findall(r"(?<!\S)(\S+)_1(?!\S)", added)
    found = []
    for token in firsts:
        count = 1
        while f"{token}_{count}" in tokenizer.added_tokens_encoder:
            count += 1
        if token in prompt and token in tokenizer.added_tokens_encoder:
            found.append((token, " ".join(names(token, count))))
    return found
