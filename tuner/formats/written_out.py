"""Words of several vectors in a pipeline that does not write them out itself, as StableDiffusion3Pipeline does not."""

from __future__ import annotations

from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any

from ..backbones import new_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PLACES = {"": "tokenizer", "_2": "tokenizer_2", "_3": "tokenizer_3"}
"""End of a prompt's argument -> the tokenizer that reads it."""
ROLES = ("prompt", "negative_prompt")


def write_out_words(pipe: Any) -> Callable[[], None]:
    """Let a pipeline's `encode_prompt` write out, for each tokenizer, the words that it knows several vectors of.

    A text encoder that was not taught a word reads the prompt as it is given.

    Returns: what undoes it; nothing is done where it was done before.
    """
    plain = pipe.encode_prompt
    if getattr(plain, "writes_out_words", False):
        return lambda: None

    @wraps(plain)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        given = signature(plain).bind(*args, **kwargs)
        for role in ROLES:
            first = given.arguments.get(role)
            for end, tokenizer in PLACES.items():
                text = given.arguments.get(role + end)
                text = first if text is None else text
                if text is not None and getattr(pipe, tokenizer) is not None:
                    given.arguments[role + end] = _spread(getattr(pipe, tokenizer), text)
        return plain(*given.args, **given.kwargs)

    encode_prompt.writes_out_words = True  # type: ignore[attr-defined]
    pipe.encode_prompt = encode_prompt

    def undo() -> None:
        del pipe.encode_prompt

    return undo


def _spread(tokenizer: Any, text: str | Sequence[str]) -> Any:
    return (
        new_words.spread(tokenizer, text)
        if isinstance(text, str)
        else [new_words.spread(tokenizer, one) for one in text]
    )
