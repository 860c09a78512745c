"""CLIP's tokenizer from its files, and prompts as token ids with what was cut off them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import new_words
from .loading import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
AGAIN = "download the whole model again"


def load_tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    """From vocab.json and merges.txt, or from tokenizer.json, which is all that transformers 5 writes.

    Args:
        folder: the `tokenizer` folder of a model.
        length: positions of the text model.

    Raises: DataError naming the file that is absent or damaged.
    """
    added: list[str] = []
    if not (folder / "vocab.json").is_file() and (folder / "tokenizer.json").is_file():
        vocabulary, merges, added = _from_one_file(folder / "tokenizer.json")
    else:
        vocabulary, merges = read_json(folder / "vocab.json"), _read_merges(folder / "merges.txt")
    faulty = [token for token, index in vocabulary.items() if not isinstance(index, int)]
    if faulty or START not in vocabulary or END not in vocabulary:
        raise DataError(f"{folder}: not CLIP's vocabulary: {START} or {END} is missing, or an id is no number", AGAIN)
    tokenizer = make_tokenizer(vocabulary, merges, length, _pad_token(folder))
    if added:
        tokenizer.add_tokens(added)
    return tokenizer


def make_tokenizer(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], length: int = 77, pad: str = END
) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),  # type: ignore[arg-type]
        pad_token=pad,
        model_max_length=length,
    )


def fingerprint(tokenizer: CLIPTokenizer) -> str:
    """sha256 of what decides a prompt's ids: tokens, merges, added words, padding."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    decides = [tree["model"]["vocab"], tree["model"]["merges"], tree["added_tokens"], tokenizer.pad_token]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def token_rows(tokenizer: Any, prompts: Sequence[str], length: int) -> tuple[list[list[int]], list[str]]:
    """Ids of each prompt, start and end marks around them, padded to `length`; and the text that did not fit."""
    rows, cut = [], []
    for given in prompts:
        prompt = new_words.spread(tokenizer, given)
        found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = found["input_ids"], found["offset_mapping"]
        kept = ids[: length - 2]
        row = [tokenizer.bos_token_id, *kept, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
        # A word may be cut inside: what is lost begins where the last token that is kept ends.
        lost = prompt[offsets[len(kept) - 1][1] :].strip() if len(ids) > len(kept) else ""
        cut.append(new_words.gathered(tokenizer, lost, given))
    return rows, cut


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", AGAIN) from error
    return _pairs(path, [line.split() for line in lines if line.strip() and not line.startswith("#version")])


def _from_one_file(path: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[str]]:
    """Vocabulary, merges and added words of a tokenizer.json."""
    tree = read_json(path)
    model = tree.get("model")
    if (
        not isinstance(model, dict)
        or not isinstance(model.get("vocab"), dict)
        or not isinstance(model.get("merges"), list)
    ):
        raise DataError(f"{path}: describes no byte-pair vocabulary", AGAIN)
    merges = [pair.split() if isinstance(pair, str) else pair for pair in model["merges"]]
    added = sorted(
        (entry["id"], entry["content"])
        for entry in tree.get("added_tokens") or ()
        if entry["content"] not in model["vocab"]
    )
    return model["vocab"], _pairs(path, merges), [content for _, content in added]


def _pairs(path: Path, merges: list[Any]) -> list[tuple[str, str]]:
    bad = next((n for n, pair in enumerate(merges, 1) if not isinstance(pair, list) or len(pair) != 2), None)
    if bad is not None:
        raise DataError(f"{path}: merge number {bad} is not a pair of tokens", AGAIN)
    return [(left, right) for left, right in merges]


def _pad_token(folder: Path) -> str:
    """The padding mark that the files name; SD1.5 pads with the end mark."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            mark = read_json(folder / name).get("pad_token")
            if isinstance(mark, dict):
                mark = mark.get("content")
            if isinstance(mark, str):
                return mark
    return END
