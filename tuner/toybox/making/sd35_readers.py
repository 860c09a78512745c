"""Teaching the three text encoders to read, each alone: what a caption says must be found in what they put out.

They are frozen afterwards, as in the paper. Trained along they would cost a quarter of every step, and the transformer
would chase what they mean; taught first, the pooled vector holds class and colours side by side from the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from ...backbones.clip_tokenizer import token_rows
from ...backbones.sd35_text import t5_rows
from ...draws import Draws
from . import pictures, sd35_parts
from .attributes import HEADS, error, labels
from .fit import Course, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

COURSE = Course(steps=2000, lr=1.5e-3, batch=64)
T5_LENGTHS = ((sd35_parts.T5_LENGTH, 0.85), (2 * sd35_parts.T5_LENGTH, 0.1), (256, 0.05))
"""Tokens of a batch and how often, in this training and the transformer's: padding is not masked in this family, and
whoever leaves `t5_length` at its 256 must get good pictures, too."""


class Questions(nn.Module):
    """One linear question for each attribute of a scene."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(said)) for name, said in HEADS.items()})

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute; state (B, D)."""
        return {name: head(state) for name, head in self.heads.items()}


class ClipReader(nn.Module):
    """A CLIP, asked about its pooled vector and about its last layer but one: the two that the transformer sees."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.mark = int(config["eos_token_id"])
        self.text = CLIPTextModelWithProjection(CLIPTextConfig(**config))
        self.pooled = Questions(config["projection_dim"])
        self.layer = Questions(config["hidden_size"])

    def forward(self, ids: Tensor) -> tuple[dict[str, Tensor], ...]:
        """Answers from both places; ids (B, L)."""
        found = self.text(ids, output_hidden_states=True)
        end = ids.eq(self.mark).int().argmax(1)
        return self.pooled(found.text_embeds), self.layer(found.hidden_states[-2][torch.arange(len(ids)), end])


class T5Reader(nn.Module):
    """A T5 encoder, asked about its state at the end mark."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.mark = int(config["eos_token_id"])
        self.text = T5EncoderModel(T5Config(**config))
        self.end = Questions(config["d_model"])

    def forward(self, ids: Tensor) -> tuple[dict[str, Tensor], ...]:
        """Answers; ids (B, L)."""
        states = self.text(ids).last_hidden_state
        end = ids.eq(self.mark).int().argmax(1)
        return (self.end(states[torch.arange(len(ids)), end]),)


def train_clip(folder: Path, name: str, tokenizer: Any, course: Course = COURSE) -> CLIPTextModelWithProjection:
    """The CLIP of that component name, frozen."""
    torch.manual_seed(pictures.SEED)
    reader = ClipReader(sd35_parts.CLIPS[name])

    def ids(_step: int, captions: list[str]) -> Tensor:
        return torch.tensor(token_rows(tokenizer, captions, sd35_parts.CLIP_LENGTH)[0])

    return _train(folder, reader, ids, course)


def train_t5(folder: Path, tokenizer: Any, course: Course = COURSE) -> T5EncoderModel:
    """The T5 encoder, frozen."""
    torch.manual_seed(pictures.SEED)

    def ids(step: int, captions: list[str]) -> Tensor:
        return torch.tensor(t5_rows(tokenizer, captions, t5_length(step))[0])

    return _train(folder, T5Reader(sd35_parts.T5), ids, course)


def t5_length(step: int) -> int:
    """How many tokens T5 reads at a step."""
    lengths, shares = zip(*T5_LENGTHS, strict=True)
    return int(Draws(pictures.SEED).generator("toybox", "t5 length", step).choice(lengths, p=shares))


def _train(folder: Path, reader: Any, ids: Callable[[int, list[str]], Tensor], course: Course) -> Any:
    def loss(step: int) -> Tensor:
        numbers = range(step * course.batch, (step + 1) * course.batch)
        wanted = labels([pictures.scene("read", n) for n in numbers])
        captions = [pictures.caption("read", n, 0) for n in numbers]
        return torch.stack([error(said, wanted) for said in reader(ids(step, captions))]).mean()

    fit(reader, loss, course, folder)
    return reader.text.requires_grad_(False).eval()
