"""Backgrounds of the world that are more than a colour."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from .ink import COLOURS, DETAIL, Colour

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Setting:
    """A ground under a sky, with grains on one of them."""

    phrase: str
    """How a caption says it."""
    sky: Colour
    ground: Colour
    horizon: float
    """Height of the ground's edge as a share of the picture, from the top."""
    grain: Colour
    grains: int
    """How many grains; each some two pixels wide at 64."""
    above: bool
    """Whether the grains are in the sky."""
    hides: frozenset[str]
    """Colours of objects that would not show."""


SETTINGS: dict[str, Setting] = {
    "grass": Setting(
        "on grass", (150, 205, 240), (90, 175, 70), 0.55, (50, 130, 45), 14, False, frozenset({"green", "cyan"})
    ),
    "snow": Setting(
        "in the snow", (170, 190, 215), (240, 245, 250), 0.6, (255, 255, 255), 16, True, frozenset({"white", "grey"})
    ),
    "sand": Setting(
        "on sand", (120, 195, 235), (232, 205, 140), 0.5, (200, 165, 100), 14, False, frozenset({"yellow", "cyan"})
    ),
    "night": Setting(
        "at night", (22, 26, 66), (40, 44, 60), 0.75, (255, 245, 170), 12, True, frozenset({"black", "blue"})
    ),
    "water": Setting(
        "in the water", (70, 150, 215), (35, 95, 165), 0.35, (170, 215, 240), 12, False, frozenset({"blue", "cyan"})
    ),
}


def lay(background: str, side: int, seed: int) -> Image:
    """An empty canvas of `side` pixels square: a colour, or a setting with its grains strewn by `seed`."""
    from PIL import Image

    if background in COLOURS:
        return Image.new("RGB", (side, side), COLOURS[background])
    return _strewn(background, side, seed % 64).copy()


@lru_cache(maxsize=512)
def _strewn(background: str, side: int, seed: int) -> Image:
    import numpy as np
    from PIL import Image, ImageDraw

    setting = SETTINGS[background]
    canvas = Image.new("RGB", (side, side), setting.sky)
    pen = ImageDraw.Draw(canvas)
    edge = side * setting.horizon
    pen.rectangle((0, edge, side, side), fill=setting.ground)
    top, bottom = (0.0, edge) if setting.above else (edge, float(side))
    rng = np.random.Generator(np.random.Philox(key=seed))
    grain = 1.3 * DETAIL * side / (64 * DETAIL)
    for x, y in rng.uniform((0, top), (side, bottom), (setting.grains, 2)):
        pen.ellipse((x - grain, y - grain, x + grain, y + grain), fill=setting.grain)
    return canvas
