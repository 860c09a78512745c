"""What a picture of the small world can hold, scenes at random, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .ink import COLOURS, DETAIL, PATTERNS, Ink, draw, mask, plain
from .settings import SETTINGS, lay
from .shapes import SHAPES

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CLASSES = tuple(SHAPES)
BACKGROUNDS = (*COLOURS, *SETTINGS)
"""A colour, or a setting such as `grass`."""
STYLES = ("outline", "pixelated", "sketch")
WORDS = ("hi", "go", "no", "up", "yes", "ok")
"""What may be written on an object."""
RELATIONS = ("left of", "above")
"""Between two objects; said from either side (`right of`, `below`)."""
SIZE = 64
"""Width and height of a picture in pixels."""
SCALES = {"small": 0.34, "": 0.56, "big": 0.8}
"""Side of an object as a share of the picture, by the word for it."""
PLACES = {
    "": (0.5, 0.5),
    "on the left": (0.28, 0.5),
    "on the right": (0.72, 0.5),
    "at the top": (0.5, 0.28),
    "at the bottom": (0.5, 0.72),
}
"""Centre of an object as shares of the picture, by the words for it."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: what is said of it, and how it lies."""

    name: str
    colour: str
    pattern: str | None = None
    scale: float = 0.56
    """Side as a share of the picture's."""
    place: tuple[float, float] = (0.5, 0.5)
    """Centre, x and y as shares of the picture."""
    turn: float = 0.0
    """Degrees, anticlockwise."""
    ink: Ink | None = None
    """A look that is not `colour` and `pattern`: a subject's."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a picture shows."""

    things: tuple[Thing, ...]
    background: str
    style: str | None = None
    relation: str | None = None
    """Of the first of two things to the second."""
    word: str | None = None
    """Written on the first thing."""
    size: str = ""
    """The word for a single thing's scale."""
    spot: str = ""
    """The words for a single thing's place."""
    seed: int = field(default=0, compare=False)
    """Of what no caption tells: grains of a setting, strokes of a sketch."""

    @property
    def kind(self) -> str:
        """`single`, `pair`, `count` or `word`."""
        if self.word is not None:
            return "word"
        return "single" if len(self.things) == 1 else "pair" if self.relation is not None else "count"


def sample(rng: np.random.Generator, kind: str | None = None) -> Scene:
    """A scene at random; `kind` limits it, else six in ten are single objects."""
    kind = kind or str(rng.choice(["single", "pair", "count", "word"], p=[0.6, 0.2, 0.12, 0.08]))
    return SAMPLERS[kind](rng)


def _single(rng: np.random.Generator) -> Scene:
    style = _pick(rng, STYLES) if rng.random() < 0.12 else None
    colour, background = _colours(rng, style)
    size = _pick(rng, ("small", "", "", "big"))
    patterned = style is None and size != "small" and rng.random() < 0.35
    pattern = _pick(rng, PATTERNS) if patterned else None
    spot = _pick(rng, tuple(PLACES)) if size != "big" and rng.random() < 0.4 else ""
    thing = Thing(_pick(rng, CLASSES), colour, pattern, _scale(rng, SCALES[size]), _near(rng, PLACES[spot]), _turn(rng))
    return Scene((thing,), background, style, size=size, spot=spot, seed=_seed(rng))


def _pair(rng: np.random.Generator) -> Scene:
    first_colour, background = _colours(rng)
    second_colour = _pick(rng, tuple(c for c in COLOURS if c not in {background, first_colour}))
    relation = _pick(rng, RELATIONS)
    ends = ((0.27, 0.5), (0.73, 0.5)) if relation == "left of" else ((0.5, 0.27), (0.5, 0.73))
    names = (_pick(rng, CLASSES), _pick(rng, CLASSES))
    things = tuple(
        Thing(name, colour, None, _scale(rng, 0.42), _near(rng, place), _turn(rng))
        for name, colour, place in zip(names, (first_colour, second_colour), ends, strict=True)
    )
    return Scene(things, background, relation=relation, seed=_seed(rng))


def _count(rng: np.random.Generator) -> Scene:
    colour, background = _colours(rng)
    name = _pick(rng, CLASSES)
    places = [(0.27, 0.5), (0.73, 0.5)] if rng.random() < 0.5 else [(0.5, 0.26), (0.26, 0.72), (0.74, 0.72)]
    things = tuple(Thing(name, colour, None, _scale(rng, 0.4), _near(rng, place), _turn(rng)) for place in places)
    return Scene(things, background, seed=_seed(rng))


def _word(rng: np.random.Generator) -> Scene:
    colour, background = _colours(rng)
    name = _pick(rng, ("circle", "square", "heart"))
    thing = Thing(name, colour, None, _scale(rng, 0.86), _near(rng, (0.5, 0.5)), 0.0)
    return Scene((thing,), background, word=_pick(rng, WORDS), seed=_seed(rng))


SAMPLERS = {"single": _single, "pair": _pair, "count": _count, "word": _word}


def _colours(rng: np.random.Generator, style: str | None = None) -> tuple[str, str]:
    """An object's colour and a background on which it shows."""
    background = "white" if style == "sketch" else _pick(rng, BACKGROUNDS if rng.random() < 0.6 else tuple(COLOURS))
    return _pick(rng, tuple(colour for colour in COLOURS if shows(colour, background))), background


def shows(colour: str, background: str) -> bool:
    """Whether an object of that colour can be seen there."""
    return colour != background and not (background in SETTINGS and colour in SETTINGS[background].hides)


def _pick(rng: np.random.Generator, among: tuple[str, ...]) -> str:
    return among[int(rng.integers(len(among)))]


def _scale(rng: np.random.Generator, about: float) -> float:
    return float(about * rng.uniform(0.92, 1.08))


def _near(rng: np.random.Generator, place: tuple[float, float]) -> tuple[float, float]:
    return float(place[0] + rng.uniform(-0.03, 0.03)), float(place[1] + rng.uniform(-0.03, 0.03))


def _turn(rng: np.random.Generator) -> float:
    return float(rng.uniform(-12, 12))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def render(scene: Scene, size: int = SIZE) -> Image:
    """The picture of a scene, RGB, `size` pixels square; the same at any time for the same scene."""
    from PIL import Image

    from .penmanship import STROKES, write

    side = size * DETAIL
    canvas = lay(scene.background, side, scene.seed)
    if scene.style in STROKES:
        for thing in scene.things:
            STROKES[scene.style](canvas, thing, scene.seed)
    else:
        for thing in scene.things:
            paste(canvas, thing, scene.background)
    if scene.word is not None:
        write(canvas, scene.word, scene.things[0])
    picture = canvas.resize((size, size), Image.Resampling.BOX)
    if scene.style == "pixelated":
        small = picture.resize((size // 4, size // 4), Image.Resampling.BOX)
        return small.resize((size, size), Image.Resampling.NEAREST)
    return picture


def paste(canvas: Image, thing: Thing, background: str) -> None:
    """Draw a thing on a canvas."""
    from PIL import Image

    picture, shape = tile(thing, background, canvas.width)
    if thing.turn:
        picture = picture.rotate(thing.turn, Image.Resampling.BILINEAR)
        shape = shape.rotate(thing.turn, Image.Resampling.BILINEAR)
    canvas.paste(picture, corner(thing, canvas.width, shape.width), shape)


def tile(thing: Thing, background: str, side: int) -> tuple[Image, Image]:
    """A thing's picture and mask before it is turned, on a canvas of `side` pixels."""
    width = round(side * thing.scale / 2) * 2
    ink = thing.ink or plain(COLOURS[thing.colour], thing.pattern, background)
    return draw(thing.name, ink, width), mask(thing.name, width)


def corner(thing: Thing, side: int, width: int) -> tuple[int, int]:
    """Where the top left corner of a thing's tile lies."""
    return round(side * thing.place[0] - width / 2), round(side * thing.place[1] - width / 2)
