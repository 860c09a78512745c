"""How well pictures and captions agree in the eyes of the CLIP judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer

from . import pictures, reader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image


@torch.no_grad()
def agreement(clip: Path, drawn: Sequence[Image], captions: Sequence[str]) -> float:
    """Mean cosine of each picture and its caption (CLIP-T; Hessel et al. 2021 without the factor)."""
    model = CLIPModel.from_pretrained(clip)
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    found = []
    for start in range(0, len(drawn), 100):
        part = slice(start, start + 100)
        ids = reader.ids(tokenizer, captions[part], reader.SHORT)
        said = model(input_ids=ids, pixel_values=pictures.to_input(pictures.stack(drawn[part])))
        found.append((normalize(said.text_embeds, dim=1) * normalize(said.image_embeds, dim=1)).sum(1))
    return float(torch.cat(found).mean())
