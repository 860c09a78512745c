"""The small captioned world: pictures of objects, drawn by code from a seed, what may be said of them, and subjects."""

from __future__ import annotations

from .captions import caption, full, said, spoken
from .ink import COLOURS, PATTERNS
from .scenes import BACKGROUNDS, CLASSES, RELATIONS, SIZE, STYLES, WORDS, Scene, Thing, render, sample, shows
from .subjects import Style, Subject, contexts

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "COLOURS",
    "PATTERNS",
    "RELATIONS",
    "SIZE",
    "STYLES",
    "WORDS",
    "Scene",
    "Style",
    "Subject",
    "Thing",
    "caption",
    "contexts",
    "full",
    "render",
    "said",
    "sample",
    "shows",
    "spoken",
]
