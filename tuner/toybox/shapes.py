"""The outlines of the world's object classes, as flat parts in a unit square that a pen fills."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Tone = Literal["main", "dark", "light"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Piece:
    """A closed outline; x runs right and y down, both in [-1, 1] about the object's centre."""

    outline: tuple[Point, ...]
    tone: Tone = "main"
    """`dark` and `light` are shades of the object's colour; a subject gives each tone a colour of its own."""
    hole: bool = False
    """Cuts through to the background instead."""


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> tuple[Point, ...]:
    steps = max(6, round(abs(end - start) / 10))
    angles = [math.radians(start + (end - start) * n / steps) for n in range(steps + 1)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def _box(left: float, top: float, right: float, bottom: float) -> tuple[Point, ...]:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _star(points: int, inner: float) -> tuple[Point, ...]:
    radii = (1.0, inner)
    turns = [-math.pi / 2 + math.pi * n / points for n in range(2 * points)]
    return tuple((radii[n % 2] * math.cos(a), radii[n % 2] * math.sin(a)) for n, a in enumerate(turns))


def _heart() -> tuple[Point, ...]:
    # the common parametric heart, scaled into the unit square
    angles = [2 * math.pi * n / 40 for n in range(40)]
    return tuple(
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16 - 0.08,
        )
        for a in angles
    )


def _crescent() -> tuple[Point, ...]:
    outer = _oval(0.1, 0, 0.95, 0.95, 70, 290)
    return (*outer, *reversed(_oval(0.42, 0, 0.72, 0.89, 90, 270)))


def _petals() -> tuple[Piece, ...]:
    centres = [math.radians(-90 + 72 * n) for n in range(5)]
    return tuple(Piece(_oval(0.58 * math.cos(a), 0.58 * math.sin(a), 0.4, 0.4)) for a in centres)


SHAPES: dict[str, tuple[Piece, ...]] = {
    "circle": (Piece(_oval(0, 0, 0.9, 0.9)),),
    "square": (Piece(_box(-0.8, -0.8, 0.8, 0.8)),),
    "triangle": (Piece(((0, -0.9), (0.95, 0.75), (-0.95, 0.75))),),
    "star": (Piece(_star(5, 0.42)),),
    "heart": (Piece(_heart()),),
    "ring": (Piece(_oval(0, 0, 0.92, 0.92)), Piece(_oval(0, 0, 0.48, 0.48), hole=True)),
    "cross": (Piece(_box(-0.3, -0.9, 0.3, 0.9)), Piece(_box(-0.9, -0.3, 0.9, 0.3))),
    "moon": (Piece(_crescent()),),
    "mushroom": (
        Piece(_box(-0.28, -0.1, 0.28, 0.9), "light"),
        Piece(_oval(0, 0.05, 0.95, 0.92, 180, 360)),
    ),
    "house": (
        Piece(_box(-0.7, -0.1, 0.7, 0.9)),
        Piece(((0, -0.95), (0.98, -0.05), (-0.98, -0.05)), "dark"),
        Piece(_box(-0.2, 0.3, 0.2, 0.9), "light"),
    ),
    "fish": (
        Piece(((0.35, 0), (0.98, -0.6), (0.98, 0.6)), "dark"),
        Piece(_oval(-0.2, 0, 0.75, 0.55)),
        Piece(_oval(-0.55, -0.12, 0.13, 0.13), "light"),
    ),
    "flower": (*_petals(), Piece(_oval(0, 0, 0.3, 0.3), "dark")),
}
"""Pieces of each class, drawn in this order."""

BOX = _box(-1, -1, 1, 1)
