"""Particular objects and particular styles, which no caption of the world describes: what there is to teach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from ..draws import Draws
from .captions import said
from .ink import COLOURS, MARKS, Colour, Ink
from .scenes import BACKGROUNDS, CLASSES, SIZE, Scene, Thing, render, sample
from .settings import SETTINGS

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Subject:
    """One particular object of a known class: several colours, parts and a mark at once."""

    seed: int
    class_name: str
    ink: Ink
    hues: tuple[str, ...]
    """Names of its colours, which backgrounds avoid."""

    @classmethod
    def make(cls, seed: int, class_name: str | None = None) -> Self:
        """The subject of a seed; a class of one's own choice leaves its colours as they are."""
        rng = Draws(seed).generator("toybox", "subject")
        name = str(rng.choice(CLASSES))
        main, dark, light, second = (str(hue) for hue in rng.choice([*COLOURS], 4, replace=False))
        ink = Ink(
            COLOURS[main],
            COLOURS[dark],
            COLOURS[light],
            second=COLOURS[second],
            mark=MARKS[int(rng.integers(len(MARKS)))],
        )
        return cls(seed, class_name or name, ink, (main, dark, light, second))

    def scene(self, rng: np.random.Generator, background: str | None = None) -> Scene:
        """The subject somewhere: turned, near or far, on a background that hides none of its main colour."""
        background = background or str(rng.choice(self.places()))
        scale = float(rng.uniform(0.5, 0.8))
        room = (1 - scale) / 2 * 0.8
        place = (0.5 + float(rng.uniform(-room, room)), 0.5 + float(rng.uniform(-room, room)))
        thing = Thing(self.class_name, self.hues[0], None, scale, place, float(rng.uniform(-18, 18)), self.ink)
        return Scene((thing,), background, seed=int(rng.integers(2**31)))

    def draw(self, rng: np.random.Generator, background: str | None = None, size: int = SIZE) -> Image:
        """A picture of the subject, RGB, `size` pixels square."""
        return render(self.scene(rng, background), size)

    def photos(self, count: int, size: int = 256) -> list[Image]:
        """`count` pictures of it in different poses, each elsewhere while places last; the first stay the same."""
        draws, places = Draws(self.seed), self.places()
        order = draws.permutation(len(places), "toybox", "photo")
        return [
            self.draw(draws.generator("toybox", "photo", index), places[order[index % len(places)]], size)
            for index in range(count)
        ]

    def places(self) -> list[str]:
        """Backgrounds on which it shows."""
        return [b for b in BACKGROUNDS if b not in self.hues and not _hidden(b, self.hues[0])]


def _hidden(background: str, colour: str) -> bool:
    return background in SETTINGS and colour in SETTINGS[background].hides


@dataclass(frozen=True, slots=True)
class Style:
    """One particular way of rendering, for any scene: a palette of its own, a texture and a frame."""

    seed: int
    shades: tuple[Colour, Colour, Colour]
    """What dark, middle and light become."""
    texture: str
    """`lines`, `dots` or `rows`, some four pixels apart at 64."""
    frame: Colour

    @classmethod
    def make(cls, seed: int) -> Self:
        """The style of a seed."""
        rng = Draws(seed).generator("toybox", "style")
        picked = sorted(rng.choice([*COLOURS], 3, replace=False), key=lambda hue: sum(COLOURS[str(hue)]))
        low, middle, high = (COLOURS[str(hue)] for hue in picked)
        texture = str(rng.choice(["lines", "dots", "rows"]))
        return cls(seed, (low, middle, high), texture, COLOURS[str(rng.choice([*COLOURS]))])

    def render(self, scene: Scene, size: int = SIZE) -> Image:
        """A scene in this style, RGB, `size` pixels square."""
        from PIL import Image, ImageDraw, ImageOps

        grey = ImageOps.autocontrast(ImageOps.grayscale(render(replace(scene, style=None), size)))
        picture = ImageOps.colorize(grey, *(self.shades[n] for n in (0, 2)), mid=self.shades[1])  # type: ignore[arg-type]
        veil = Image.new("L", (size, size), 0)
        pen = ImageDraw.Draw(veil)
        pitch = size // 8
        for first in range(0, size, pitch):
            if self.texture == "lines":
                pen.rectangle((first, 0, first + pitch // 4, size), fill=110)
            elif self.texture == "rows":
                pen.rectangle((0, first, size, first + pitch // 4), fill=110)
            else:
                for second in range(0, size, pitch):
                    pen.ellipse((first, second, first + pitch // 2, second + pitch // 2), fill=110)
        picture.paste(self.frame, mask=veil)
        ImageDraw.Draw(picture).rectangle((0, 0, size - 1, size - 1), outline=self.frame, width=size // 14)
        return picture

    def pictures(self, count: int, size: int = 256) -> list[tuple[Image, str]]:
        """`count` pictures of different objects in this style, each with the class that it shows."""
        draws = Draws(self.seed)
        scenes = [sample(draws.generator("toybox", "styled", index), "single") for index in range(count)]
        return [(self.render(scene, size), scene.things[0].name) for scene in scenes]


def contexts() -> tuple[str, ...]:
    """Places that any subject can be asked into: templates with `{}` for its noun phrase."""
    return tuple("{} " + said(background) for background in BACKGROUNDS)
