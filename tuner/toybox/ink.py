"""How an object of the world is filled: colours, patterns, and the looks that no caption describes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from .shapes import SHAPES

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 220, 50),
    "green": (40, 150, 60),
    "cyan": (60, 210, 215),
    "blue": (40, 80, 210),
    "purple": (125, 45, 170),
    "pink": (250, 140, 190),
    "brown": (120, 70, 35),
    "white": (250, 250, 250),
    "grey": (140, 140, 145),
    "black": (20, 20, 24),
}
PATTERNS = ("striped", "dotted")
"""Said in a caption; a plain object is not called plain."""
MARKS = ("core", "band", "halves", "eyes", "sash")
"""What a subject's look adds to its colours."""
DETAIL = 2
"""Pictures are drawn this many times larger, then reduced, so that edges are smooth."""


@dataclass(frozen=True, slots=True)
class Ink:
    """What fills an object."""

    main: Colour
    dark: Colour
    light: Colour
    pattern: str | None = None
    second: Colour | None = None
    """Of stripes and dots, and of a mark; by default white, or black on what is light."""
    mark: str | None = None


def plain(colour: Colour, pattern: str | None = None, background: str = "") -> Ink:
    """An object of one colour and its own shades; a pattern is white, black or yellow, as shows on both."""
    second = None
    if pattern is not None:
        free = [hue for hue in ("white", "black", "yellow") if hue != background]
        second = next(COLOURS[hue] for hue in free if distance(COLOURS[hue], colour) > 200)
    return Ink(colour, mix(colour, (0, 0, 0), 0.4), mix(colour, (255, 255, 255), 0.55), pattern, second)


def distance(a: Colour, b: Colour) -> int:
    return sum(abs(p - q) for p, q in zip(a, b, strict=True))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(p * (1 - share) + q * share) for p, q in zip(a, b, strict=True))
    return red, green, blue


def contrast(colour: Colour) -> Colour:
    """White, or black where white would not show."""
    return (20, 20, 24) if sum(colour) > 480 else (250, 250, 250)


@lru_cache(maxsize=512)
def mask(name: str, side: int) -> Image:
    """Where an object of a class is, as a square 8-bit mask; not to be changed."""
    from PIL import Image, ImageDraw

    found = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(found)
    for piece in SHAPES[name]:
        pen.polygon(_place(piece.outline, side), fill=0 if piece.hole else 255)
    return found


def draw(name: str, ink: Ink, side: int) -> Image:
    """An object filled with its ink: RGB, `side` pixels square; outside `mask(name, side)` it means nothing."""
    from PIL import Image, ImageChops, ImageDraw

    picture = Image.new("RGB", (side, side), ink.main)
    pen = ImageDraw.Draw(picture)
    second = ink.second or contrast(ink.main)
    if ink.pattern is not None:
        PENS[ink.pattern](pen, side, second)
    for piece in SHAPES[name]:
        if piece.tone != "main":
            pen.polygon(_place(piece.outline, side), fill=getattr(ink, piece.tone))
        elif ink.pattern is None:
            pen.polygon(_place(piece.outline, side), fill=ink.main)
    if ink.mark == "core":
        inner = round(side * 0.5)
        spot = Image.new("L", (side, side), 0)
        spot.paste(mask(name, inner), ((side - inner) // 2, (side - inner) // 2))
        picture.paste(second, mask=ImageChops.multiply(spot, mask(name, side)))
    elif ink.mark is not None:
        PENS[ink.mark](pen, side, second)
    return picture


def _place(outline: tuple[tuple[float, float], ...], side: int) -> list[tuple[float, float]]:
    half = side / 2
    return [(half + x * half, half + y * half) for x, y in outline]


def _stripes(pen: ImageDraw, side: int, colour: Colour) -> None:
    width = max(7 * DETAIL // 2, round(side / 7))
    for left in range(width // 2, side, 2 * width):
        pen.rectangle((left, 0, left + width - 1, side), fill=colour)


def _dots(pen: ImageDraw, side: int, colour: Colour) -> None:
    pitch = max(9 * DETAIL, round(side / 3.4))
    radius = pitch * 0.31
    for row, y in enumerate(range(pitch // 2, side + pitch, pitch)):
        for x in range((pitch // 2) * (row % 2), side + pitch, pitch):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _band(pen: ImageDraw, side: int, colour: Colour) -> None:
    pen.rectangle((0, side * 0.40, side, side * 0.60), fill=colour)


def _halves(pen: ImageDraw, side: int, colour: Colour) -> None:
    pen.rectangle((side // 2, 0, side, side), fill=colour)


def _sash(pen: ImageDraw, side: int, colour: Colour) -> None:
    pen.polygon([(0, side * 0.62), (side * 0.62, 0), (side * 0.95, 0), (0, side * 0.95)], fill=colour)


def _eyes(pen: ImageDraw, side: int, colour: Colour) -> None:
    for x in (0.36, 0.64):
        for radius, fill in ((0.125, (250, 250, 250)), (0.06, (20, 20, 24))):
            box = (side * (x - radius), side * (0.42 - radius), side * (x + radius), side * (0.42 + radius))
            pen.ellipse(box, fill=fill)
    pen.rectangle((side * 0.3, side * 0.62, side * 0.7, side * 0.72), fill=colour)


PENS = {"striped": _stripes, "dotted": _dots, "band": _band, "halves": _halves, "sash": _sash, "eyes": _eyes}
