"""The toybox's Stable Diffusion 3.5, from nothing to the files that ship."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backbones.clip_tokenizer import load_tokenizer
from ...backbones.sd35_text import load_t5_tokenizer
from . import autoencoder, decoder, pictures, sd35_parts, sd35_publish, sd35_readers, sd35_transformer
from .fit import Course

if TYPE_CHECKING:
    from torch import nn


VAE_COURSE = Course(steps=1800, lr=3e-3, batch=24, decay=0.6, weight_decay=0.0, ema=0.995)
DECODER_COURSE = Course(steps=800, lr=1.5e-3, batch=24, decay=0.7, weight_decay=0.0, ema=0.995)


@dataclass(frozen=True, slots=True)
class Courses:
    """How long each part learns."""

    vae: Course = VAE_COURSE
    reader: Course = sd35_readers.COURSE
    transformer: Course = sd35_transformer.COURSE
    composed: Course = sd35_transformer.COMPOSED
    decoder: Course = DECODER_COURSE

    def upto(self, steps: int) -> Courses:
        """The same, none longer than `steps`; with 0 every part is as its newest state has it."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Courses(**{name: replace(course, steps=min(steps, course.steps)) for name, course in own.items()})


COURSES = Courses()
KL = 2e-7
"""With four times the latents of SD1.5 each says less, and would be mostly noise under the same weight."""
HALVED = 0.25
"""What pictures of half the side weigh in the VAE's training, see `autoencoder.train`."""


def make(state: Path, place: Path, courses: Courses = COURSES) -> Path:
    """Train each part from its newest state and publish the model; where it lies.

    Args:
        state: folder for the states of training.
        place: where the model goes.
        courses: how long.
    """
    tokenizers = _tokenizers()
    parts = _encoders(state, tokenizers, courses)
    vae: Any = autoencoder.train(state / "sd35-vae", sd35_parts.VAE, courses.vae, kl=KL, halved=HALVED)
    shift, scale = autoencoder.shift_and_scale(vae, pictures.everything(500))
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    parts["vae"] = vae.requires_grad_(False)
    stages = (courses.transformer, courses.composed)
    parts["transformer"] = sd35_transformer.train(state / "sd35-transformer", parts, tokenizers, stages)
    parts["vae"] = decoder.train(state / "sd35-decoder", vae.requires_grad_(True), courses.decoder)
    sd35_publish.pipeline(place, parts)
    return place


def _encoders(state: Path, tokenizers: dict[str, Any], courses: Courses) -> dict[str, nn.Module]:
    encoders: dict[str, nn.Module] = {
        name: sd35_readers.train_clip(state / f"sd35-{name}", name, tokenizers[name], courses.reader)
        for name in sd35_parts.CLIPS
    }
    encoders["text_encoder_3"] = sd35_readers.train_t5(
        state / "sd35-text_encoder_3", tokenizers["text_encoder_3"], courses.reader
    )
    return encoders


def _tokenizers() -> dict[str, Any]:
    """As the backbone will load them, by the name of their text encoder."""
    with tempfile.TemporaryDirectory() as scratch:
        sd35_publish.tokenizers(Path(scratch))
        return {
            "text_encoder": load_tokenizer(Path(scratch, "tokenizer"), sd35_parts.CLIP_LENGTH),
            "text_encoder_2": load_tokenizer(Path(scratch, "tokenizer_2"), sd35_parts.CLIP_LENGTH),
            "text_encoder_3": load_t5_tokenizer(Path(scratch, "tokenizer_3")),
        }
