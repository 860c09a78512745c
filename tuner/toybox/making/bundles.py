"""The pictures that ship: a subject, a style, plain things of the subject's class, and pairs that prefer a colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...draws import Draws
from .. import bundled, world
from ..scenes import BACKGROUNDS, COLOURS, Scene, Thing, shows
from . import pictures

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image as Picture

SIDE = 256
PHOTOS, STYLED, PLAIN, PAIRS = 5, 16, 12, 12
SUBJECT_SEED, STYLE_SEED = 85, 3


def write(folder: Path) -> None:
    """Write every bundle; `.txt` files hold captions where one sentence does not fit all."""
    subject = world.Subject.make(SUBJECT_SEED, bundled.CLASS)
    for index, picture in enumerate(subject.photos(PHOTOS, SIDE)):
        _save(folder / "instance" / f"{index}.png", picture)
    for index, (picture, name) in enumerate(world.Style.make(STYLE_SEED).pictures(STYLED, SIDE)):
        caption = bundled.STYLED.format(f"a {name}")
        _save(folder / "images" / f"{index:02}.png", picture, caption)
    for index in range(PLAIN):
        _save(folder / "prior" / f"{index:02}.png", world.render(_plain(index), SIDE))

    for index in range(PAIRS):
        for side, scene in pair(index).items():
            _save(folder / "pairs" / side / f"{index:02}.png", world.render(scene, SIDE))
        caption = bundled.PLAINLY.format(bundled.LIKED[index % len(bundled.LIKED)])
        _write(folder / "pairs" / "chosen" / f"{index:02}.txt", caption)


def pair(index: int, preferred: str = bundled.PREFERRED) -> dict[str, Scene]:
    """One thing in one place, chosen in the preferred colour and rejected in another; no caption tells the colour."""
    rng = Draws(pictures.SEED).generator("toybox", "pair", index)
    other = str(rng.choice([colour for colour in COLOURS if colour != preferred]))
    background = str(rng.choice([b for b in BACKGROUNDS if shows(preferred, b) and shows(other, b)]))
    scale, x, y, turn = 0.5 + 0.15 * rng.random(), *(0.5 + rng.uniform(-0.08, 0.08, 2)), rng.uniform(-12, 12)
    kind = bundled.LIKED[index % len(bundled.LIKED)]
    return {
        side: Scene((Thing(kind, colour, None, float(scale), (float(x), float(y)), float(turn)),), background)
        for side, colour in (("chosen", preferred), ("rejected", other))
    }


def _plain(index: int) -> Scene:
    """An ordinary thing of the subject's class."""
    rng = Draws(pictures.SEED).generator("toybox", "plain", index)
    scene = world.sample(rng, "single")
    thing = scene.things[0]
    return Scene((Thing(bundled.CLASS, thing.colour, None, 0.56, (0.5, 0.5), thing.turn),), scene.background)


def _save(path: Path, picture: Picture, caption: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    from PIL import Image

    picture.quantize(64, dither=Image.Dither.NONE).convert("RGB").save(path, optimize=True)
    if caption is not None:
        _write(path.with_suffix(".txt"), caption)


def _write(path: Path, caption: str) -> None:
    path.write_text(caption + "\n", encoding="utf-8", newline="\n")
