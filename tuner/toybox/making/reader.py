"""Teaching the toybox's text encoder to read before anything is drawn: what a caption says must be found at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from .. import words
from . import pictures
from .attributes import HEADS, error, labels
from .fit import Course, fit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import CLIPTokenizer

COURSE = Course(steps=1500, lr=1.5e-3, batch=64)
WIDTH = 96
SHORT = 40
"""Tokens looked at here; what follows a caption's end mark is more end marks."""


def config(width: int = WIDTH, layers: int = 3) -> dict[str, Any]:
    """The text model's configuration in CLIP's form."""
    size = len(words.vocabulary(words.merges()))
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": size,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": words.LENGTH,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }


class Reader(nn.Module):
    """A text encoder with one linear question for each attribute of a scene."""

    def __init__(self) -> None:
        super().__init__()
        self.text = CLIPTextModel(CLIPTextConfig(**config()))
        self.questions = nn.ModuleDict({name: nn.Linear(WIDTH, len(said)) for name, said in HEADS.items()})

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute from the state of the first end mark; ids (B, L)."""
        states = self.text(ids).last_hidden_state
        end = states[torch.arange(len(ids)), (ids == ids[:, -1:]).int().argmax(1)]
        return {name: question(end) for name, question in self.questions.items()}


def ids(tokenizer: CLIPTokenizer, captions: Sequence[str], length: int) -> Tensor:
    """Token ids padded with end marks, (B, length)."""
    found = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids


def train(folder: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A text encoder that reads; where a caption leaves an attribute unsaid, the guess is what is common."""
    torch.manual_seed(pictures.SEED)
    reader = Reader()

    def loss(step: int) -> Tensor:
        numbers = range(step * COURSE.batch, (step + 1) * COURSE.batch)
        scenes = [pictures.scene("read", n) for n in numbers]
        captions = [pictures.caption("read", n, 0) for n in numbers]
        return error(reader(ids(tokenizer, captions, SHORT)), labels(scenes))

    fit(reader, loss, COURSE, folder)
    return reader.text
