"""Five drawn photos of one subject, a spotted mushroom with a banded stem, for whoever has no pictures yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SCENES = (
    # width, height, sky, ground, subject's centre and size as shares of the picture
    ((256, 256), (132, 190, 228), (96, 150, 72), (0.50, 0.55), 0.62),
    ((320, 240), (236, 214, 168), (186, 140, 92), (0.38, 0.58), 0.60),
    ((240, 320), (70, 84, 128), (48, 58, 80), (0.55, 0.50), 0.58),
    ((256, 256), (244, 226, 236), (214, 150, 176), (0.45, 0.60), 0.50),
    ((288, 240), (176, 220, 196), (60, 120, 110), (0.60, 0.52), 0.66),
)
SMOOTH = 3
"""Drawn this many times larger, then reduced."""


def write(folder: Path) -> None:
    """Write the pictures into an empty folder."""
    for index in range(len(SCENES)):
        draw(index).save(folder / f"{index}.png")


def draw(index: int) -> Image:
    """Scene `index`, RGB."""
    from PIL import Image, ImageDraw

    (width, height), sky, ground, (x, y), size = SCENES[index]
    w, h = width * SMOOTH, height * SMOOTH
    picture = Image.new("RGB", (w, h), sky)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, h * 0.72, w, h), fill=ground)
    for stripe in range(3):  # something behind the subject, other in every scene
        left = w * ((0.13 + 0.31 * stripe + 0.17 * index) % 1)
        pen.ellipse((left - w * 0.09, h * 0.60, left + w * 0.09, h * 0.80), fill=_mix(sky, ground, 0.3 + 0.2 * stripe))
    _mushroom(pen, w * x, h * y, min(w, h) * size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _mushroom(pen: ImageDraw, x: float, y: float, size: float) -> None:
    stem, cap = size * 0.17, size * 0.5
    top, bottom = y - size * 0.05, y + size * 0.5
    for band in range(5):
        start, end = top + (bottom - top) * band / 5, top + (bottom - top) * (band + 1) / 5
        pen.rectangle((x - stem, start, x + stem, end), fill=(250, 240, 214) if band % 2 else (88, 60, 150))
    pen.pieslice((x - cap, y - size * 0.5, x + cap, y + size * 0.4), 180, 360, fill=(226, 60, 48))
    for dx, dy, radius in ((-0.28, -0.16, 0.07), (0.0, -0.32, 0.09), (0.27, -0.15, 0.075), (-0.05, -0.12, 0.05)):
        cx, cy, r = x + dx * size, y + dy * size, radius * size
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(255, 250, 235))


def _mix(a: tuple[int, int, int], b: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(p * (1 - share) + q * share) for p, q in zip(a, b, strict=True))
    return red, green, blue
