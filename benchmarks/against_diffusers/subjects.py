"""What both tools are to learn: drawn subjects written as photo files, or folders of photos; and class pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .terms import Terms

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
GROUP = 4
"""Class pictures drawn at a time."""


@dataclass(frozen=True, slots=True)
class Taught:
    """A subject and the files that show it."""

    name: str
    photos: Path
    class_name: str

    @property
    def instance(self) -> str:
        return f"a photo of sks {self.class_name}"

    @property
    def plain(self) -> str:
        from tuner.toybox.captions import article

        return f"a photo of {article(self.class_name)}"


def drawn(seeds: Sequence[int], count: int, side: int, place: Path) -> list[Taught]:
    """Subjects of the toybox's world, `count` photos each of `side` pixels, as PNG files.

    Raises: ValueError where other photos are there: cells that learned from those must not join the same table.
    """
    from tuner.toybox.world import Subject

    found = []
    for seed in seeds:
        subject = Subject.make(seed)
        folder = place / f"subject-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, photo in enumerate(subject.photos(count, side)):
            packed, file = BytesIO(), folder / f"{number:02}.png"
            photo.save(packed, "PNG")
            if file.is_file() and file.read_bytes() != packed.getvalue():
                raise ValueError(f"{file}: another picture than this world draws; choose another --out")
            file.write_bytes(packed.getvalue())
        found.append(Taught(folder.name, folder, subject.class_name))
    return found


def photographed(place: Path) -> list[Taught]:
    """One subject for each folder of photos in `place`, its class said by the folder's name (`monster_toy`, `cat2`).

    Raises: ValueError where there is none, or a folder holds something else: the script reads every file as a photo.
    """
    found = []
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        files = sorted(folder.iterdir())
        strange = [file.name for file in files if file.suffix.lower() not in PICTURES]
        if strange or not files:
            raise ValueError(f"{folder}: {', '.join(strange) or 'holds no photo'}; only photos may lie there")
        found.append(Taught(folder.name, folder, re.sub(r"[_\d]+", " ", folder.name).strip()))
    if not found:
        raise ValueError(f"{place}: holds no folder of photos")
    return found


def sides_px(taught: Taught) -> tuple[int, int]:
    """Shortest and longest side in pixels of any photo."""
    from PIL import Image

    sides = []
    for path in taught.photos.iterdir():
        with Image.open(path) as photo:
            sides += photo.size
    return min(sides), max(sides)


def class_pictures(taught: Taught, terms: Terms, base: str, place: Path) -> Path:
    """A folder with exactly `terms.prior` pictures of the plain class, drawn by the base; what is there stays."""
    import torch

    from tuner.backbones import Backbone
    from tuner.sampling import Shot, paint

    from .terms import DRAWN_GUIDANCE, DRAWN_STEPS

    folder = place / taught.class_name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    side = (terms.resolution, terms.resolution)
    shots = [Shot(taught.plain, "", n, side, DRAWN_STEPS, DRAWN_GUIDANCE) for n in range(terms.prior)]
    files = [folder / f"{number:04}.png" for number in range(terms.prior)]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    if missing:
        torch.set_num_threads(terms.threads)
        backbone = Backbone.read({"name": "sd15", "model": base})
        model = backbone.load(device=torch.device("cpu"), dtype=torch.float32)
        for start in range(0, len(missing), GROUP):
            group = missing[start : start + GROUP]
            for number, picture in zip(group, paint(model, [shots[n] for n in group], batch=GROUP), strict=True):
                half = place / f".{folder.name}.png"  # not in the folder, of which the script reads every file
                picture.save(half)
                half.rename(files[number])
    return folder
