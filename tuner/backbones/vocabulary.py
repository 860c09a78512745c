"""Which words a tokenizer knows whole and how rare they are, read from its files alone: no torch, no transformers."""

from __future__ import annotations

import gzip
import math
import re
import unicodedata
from abc import ABC, abstractmethod
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .clip_tokenizer import AGAIN
from .loading import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PARTS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+")
"""What CLIP's tokenizer never joins: ends of short forms, runs of letters, single digits, runs of punctuation."""
PUBLISHED_MERGES = 48894
"""Of the merges in the published file, those that belong to CLIP (Radford et al. 2021)."""


class Vocabulary(ABC):
    """One tokenizer's pieces, the commonest first."""

    name: str
    """Whose it is, for messages."""
    common: int
    """How many of its pieces, from the first, are common."""

    @abstractmethod
    def pieces(self, word: str) -> Sequence[str]:
        """What the tokenizer makes of a word that stands by itself, without marks of where a word begins or ends."""

    @abstractmethod
    def places(self, word: str) -> Sequence[int]:
        """The place of each piece in the vocabulary, 0 the commonest."""

    def rank(self, word: str) -> int | None:
        """The place of a word that is one piece; None where it is several."""
        places = self.places(word)
        return places[0] if len(places) == 1 else None

    @abstractmethod
    def whole(self) -> Iterator[str]:
        """Words that are one piece, the rarest first."""


class Clip(Vocabulary):
    """CLIP's byte-pair encoding (Sennrich et al. 2016): merges in the order in which they were found, so by frequency.

    Args:
        merges: each `left right`, the commonest first.
    """

    name = "CLIP"

    def __init__(self, merges: Sequence[str]) -> None:
        self.merges = merges
        self.by_pair = {pair: place for place, pair in enumerate(merges)}
        self.common = len(merges) // 2

    def pieces(self, word: str) -> Sequence[str]:
        return [said(token.removesuffix("</w>")) for token in self._tokens(word)]

    def places(self, word: str) -> Sequence[int]:
        return [self._place(token) for token in self._tokens(word)]

    def _place(self, token: str) -> int:
        """Of the merge that makes a token; a single byte is commoner than any."""
        splits = (f"{token[:i]} {token[i:]}" for i in range(1, len(token.removesuffix("</w>"))))
        return min((self.by_pair[pair] for pair in splits if pair in self.by_pair), default=0)

    def _tokens(self, word: str) -> list[str]:
        lowered = unicodedata.normalize("NFC", word).lower()
        return [token for part in PARTS.findall(lowered) for token in self._merged(spelt(part))]

    def _merged(self, part: str) -> list[str]:
        letters = [*part[:-1], part[-1] + "</w>"]
        while len(letters) > 1:
            place, at = min((self.by_pair.get(f"{a} {b}", math.inf), i) for i, (a, b) in enumerate(pairwise(letters)))
            if place == math.inf:
                break
            # Every occurrence of the pair is joined, as the tokenizer does; the next round finds the others.
            letters[at : at + 2] = [letters[at] + letters[at + 1]]
        return letters

    def whole(self) -> Iterator[str]:
        for pair in reversed(self.merges):
            if pair.endswith("</w>"):
                yield said(pair.removesuffix("</w>").replace(" ", ""))


@lru_cache(maxsize=1)
def _alphabet() -> tuple[dict[int, str], dict[str, int]]:
    """The character that stands for each byte in CLIP's files, and the other way round."""
    from ..toybox.words import byte_characters

    kept = {ord(c): c for c in byte_characters() if ord(c) < 256}
    rest = [byte for byte in range(256) if byte not in kept]
    table = {**kept, **{byte: chr(256 + place) for place, byte in enumerate(rest)}}
    return table, {character: byte for byte, character in table.items()}


def spelt(text: str) -> str:
    """Text as CLIP's files spell it: a character a byte."""
    if text.isascii() and text.isalnum():
        return text
    return "".join(_alphabet()[0][byte] for byte in text.encode("utf-8", "replace"))


def said(piece: str) -> str:
    """A piece of CLIP's as text; bytes that are no whole character are shown as one that is missing."""
    if piece.isascii():
        return piece
    return bytes(_alphabet()[1][character] for character in piece).decode("utf-8", "replace")


class T5(Vocabulary):
    """T5's unigram model (Kudo 2018): each piece has a log probability, and the likeliest split counts.

    Args:
        scores: by piece, in the order of the vocabulary, which is by frequency; a word begins with `\u2581`.
    """

    name = "T5"
    common = 5000
    """Ruiz et al. 2022, sec. 3.2, take identifiers from 5000 to 10000."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores
        self.by_piece = {piece: place for place, piece in enumerate(scores)}
        self.longest = max(map(len, scores))
        self.unknown = min(scores.values()) - 10  # what sentencepiece takes off for a letter that it does not know

    def pieces(self, word: str) -> Sequence[str]:
        return [text for piece in self._split(word) if (text := piece.lstrip("\u2581"))]

    def places(self, word: str) -> Sequence[int]:
        """A mark of where the word begins that is a piece by itself is none of the word."""
        return [self.by_piece.get(piece, len(self.scores)) for piece in self._split(word) if piece != "\u2581"]

    def _split(self, word: str) -> list[str]:
        text = "\u2581" + unicodedata.normalize("NFKC", word)
        best: list[tuple[float, int]] = [
            (0.0, 0)
        ]  # score of the best split up to here, and where its last piece begins
        for end in range(1, len(text) + 1):
            starts = range(max(0, end - self.longest), end)
            found = [
                (best[start][0] + score, start)
                for start in starts
                if (score := self._score(text[start:end])) is not None
            ]
            best.append(max(found))
        pieces, end = [], len(text)
        while end:
            start = best[end][1]
            pieces.append(text[start:end])
            end = start
        return pieces[::-1]

    def _score(self, piece: str) -> float | None:
        known = self.scores.get(piece)
        return self.unknown if known is None and len(piece) == 1 else known

    def whole(self) -> Iterator[str]:
        for piece in reversed(self.scores):
            if piece.startswith("\u2581") and len(piece) > 1:
                yield piece[1:]


@lru_cache(maxsize=1)
def published_clip() -> Clip:
    """The vocabulary that every published CLIP of Stable Diffusion has; it ships with tuner."""
    packed = (files("tuner.backbones") / "data" / "sd15" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    return Clip(lines[1 : PUBLISHED_MERGES + 1])


def read_clip(folder: Path) -> Clip:
    """The vocabulary in a model's `tokenizer` folder. Raises: DataError."""
    plain, whole = folder / "merges.txt", folder / "tokenizer.json"
    if plain.is_file():
        try:
            lines = plain.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{plain}: cannot be read: {error}", AGAIN) from error
        return Clip([line for line in lines if line.strip() and not line.startswith("#version")])
    model = _model(whole)
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise DataError(f"{whole}: describes no byte-pair vocabulary", AGAIN)
    return Clip([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])


def read_t5(folder: Path) -> T5:
    """The vocabulary in a model's folder of T5's tokenizer. Raises: DataError."""
    path = folder / "tokenizer.json"
    vocabulary = _model(path).get("vocab")
    if not isinstance(vocabulary, list) or not vocabulary:
        raise DataError(f"{path}: describes no unigram vocabulary, so it is not T5's", AGAIN)
    try:
        return T5({str(piece): float(score) for piece, score in vocabulary})
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: describes no unigram vocabulary, so it is not T5's", AGAIN) from error


def _model(path: Path) -> dict[str, Any]:
    tree = read_json(path)
    return model if isinstance(model := tree.get("model"), dict) else {}
