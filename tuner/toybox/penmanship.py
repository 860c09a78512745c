"""The ways in which an object of the world can be drawn other than filled, and the words written on one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ink import COLOURS, contrast, mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from .scenes import Thing

LETTERS = {  # rows of a 4 by 5 grid
    "e": ("1111", "1000", "1110", "1000", "1111"),
    "g": ("1111", "1000", "1011", "1001", "1111"),
    "h": ("1001", "1001", "1111", "1001", "1001"),
    "i": ("1110", "0100", "0100", "0100", "1110"),
    "k": ("1001", "1010", "1100", "1010", "1001"),
    "n": ("1001", "1101", "1011", "1001", "1001"),
    "o": ("1111", "1001", "1001", "1001", "1111"),
    "p": ("1111", "1001", "1111", "1000", "1000"),
    "s": ("1111", "1000", "1111", "0001", "1111"),
    "u": ("1001", "1001", "1001", "1001", "1111"),
    "y": ("1001", "1001", "1111", "0100", "0100"),
}
CELL = 3
"""Side of a letter's cell at 64 pixels."""


def _shape(canvas: Image, thing: Thing) -> Image:
    """A thing's mask on the whole canvas."""
    from PIL import Image

    from .scenes import corner

    side = canvas.width
    width = round(side * thing.scale / 2) * 2
    shape = mask(thing.name, width).rotate(thing.turn, Image.Resampling.BILINEAR)
    whole = Image.new("L", (side, side), 0)
    whole.paste(shape, corner(thing, side, width))
    return whole


def _edge(shape: Image) -> Image:
    """A line of some three pixels at 64 along the inside of a mask's edge."""
    from PIL import ImageChops, ImageFilter

    inner = shape
    for _ in range(3 * shape.width // 128):
        inner = inner.filter(ImageFilter.MinFilter(5))
    return ImageChops.subtract(shape, inner)


def outline(canvas: Image, thing: Thing, seed: int) -> None:  # noqa: ARG001 one signature for all strokes
    """Only the thing's edge, in its colour."""
    canvas.paste(COLOURS[thing.colour], mask=_edge(_shape(canvas, thing)))


def sketch(canvas: Image, thing: Thing, seed: int) -> None:
    """The edge in dark pencil over slanted hatching in the thing's colour."""
    from PIL import Image, ImageChops, ImageDraw

    side = canvas.width
    shape = _shape(canvas, thing)
    hatching = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(hatching)
    step, width = side // 6, side // 13
    for start in range(-side + seed % step, side, step):
        pen.line((start, side, start + side, 0), fill=255, width=width)
    canvas.paste(COLOURS[thing.colour], mask=ImageChops.multiply(hatching, shape))
    canvas.paste((70, 70, 76), mask=_edge(shape))


STROKES: dict[str, Callable[[Image, Thing, int], None]] = {"outline": outline, "sketch": sketch}
"""Styles that put the thing itself differently; `pixelated` changes the picture afterwards."""


def write(canvas: Image, word: str, thing: Thing) -> None:
    """Write a word across a thing, in white, or black on what is light."""
    from PIL import ImageDraw

    cell = CELL * canvas.width / 64
    left = canvas.width * thing.place[0] - (5 * len(word) - 1) * cell / 2
    top = canvas.width * thing.place[1] - 5 * cell / 2
    pen = ImageDraw.Draw(canvas)
    colour = contrast(COLOURS[thing.colour])
    for place, letter in enumerate(word):
        for row, bits in enumerate(LETTERS[letter]):
            for column, bit in enumerate(bits):
                if bit == "1":
                    x, y = left + (5 * place + column) * cell, top + row * cell
                    pen.rectangle((x, y, x + cell - 1, y + cell - 1), fill=colour)
