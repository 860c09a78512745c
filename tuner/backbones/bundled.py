"""What ships with the package of the real Stable Diffusion 1.5: its configuration and CLIP's vocabulary, no weights."""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from typing import Any

VOCABULARY_SIZE = 49408


def configs() -> dict[str, dict[str, Any]]:
    """Configuration of `unet`, `vae`, `text_encoder` and `scheduler`."""
    folder = files("tuner.backbones") / "data" / "sd15"
    names = ("unet", "vae", "text_encoder", "scheduler")
    return {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in names}


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's token ids and merges (Radford et al. 2021).

    Ids count up through the 256 bytes, the 256 bytes that end a word, the merges, and the start and end mark; of the
    merges in the file only as many belong to CLIP as fill its 49,408 entries.
    """
    from ..toybox.words import byte_characters

    packed = (files("tuner.backbones") / "data" / "sd15" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : VOCABULARY_SIZE - 512 - 2 + 1]]
    characters = byte_characters()
    tokens = [
        *characters,
        *(c + "</w>" for c in characters),
        *(a + b for a, b in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return {token: index for index, token in enumerate(tokens)}, merges  # type: ignore[return-value]
