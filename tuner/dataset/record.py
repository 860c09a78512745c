"""What `dataset.json` holds: the pictures of a dataset, what was refused, and the captions that wait for a picture."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ..data.listing import Refused  # noqa: TC001 - pydantic reads the annotations
from ..errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
MAX_REFUSED = 2000
"""Refused files that are listed one by one; of older ones the number is kept."""
ID = r"^[0-9a-f]{16}$"

Id = Annotated[str, Field(pattern=ID)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a dataset."""

    id: Id
    ending: Literal[".png", ".jpg"]
    """Of its file in `images/`, whose name is the id."""
    name: str
    """What it was called when it came, safe to show. Never part of a path."""
    key: str
    """The name by which captions find it: folders and stem, folded."""
    suffix: str
    """Lower-case ending of the name that it came with, by which rows of a table find it."""
    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    bytes: int
    """Size of its file in `images/`."""
    source: str
    """Format that it came in, by its content."""
    pixels: Sha256
    """sha256 of size and RGB pixels as they were decoded when it came."""
    dhash: Annotated[str, Field(pattern=ID)]
    """Whether brightness rises from left to right, at 8 x 8 places: 64 bits."""
    tiny: Annotated[str, Field(pattern=r"^[0-9a-f]{384}$")]
    """The picture at 8 x 8 pixels, RGB."""
    sharpness: float
    """Strength of the finest detail against all detail, at 512 pixels; see `likeness.sharpness`."""
    notes: tuple[str, ...] = ()
    """What the user should know of how it was read."""

    @property
    def file_name(self) -> str:
        return self.id + self.ending

    @property
    def thumb_name(self) -> str:
        return self.id + ".webp"

    @property
    def size(self) -> tuple[int, int]:
        """(W, H) in pixels."""
        return (self.width, self.height)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A caption whose picture is not there yet."""

    name: str
    """Of the file that it came in, or `metadata.jsonl:3`."""
    key: str
    suffix: str
    """Of the picture, where a table named it whole; '' for a .txt."""
    text: str


@dataclass(frozen=True, slots=True)
class Contents:
    """A dataset but for its captions and pixels."""

    name: str
    pictures: tuple[Picture, ...] = ()
    """In the order in which they came."""
    refused: tuple[Refused, ...] = ()
    """What was dropped here and is not used, the oldest first."""
    refused_before: int = 0
    """Number of still older ones."""
    waiting: tuple[Waiting, ...] = ()
    version: int = VERSION

    def picture(self, id: str) -> Picture | None:
        return next((picture for picture in self.pictures if picture.id == id), None)


def fresh_id() -> str:
    """16 hexadecimal digits that nobody can guess."""
    return secrets.token_hex(8)


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_json(data: bytes, kind: type[Any], path: Path) -> Any:
    """The dataclass that a file of ours holds. Raises: DataError naming the file and what is wrong in it."""
    try:
        return _adapter(kind).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: {place + ': ' if place else ''}{first['msg'].lower()}",
            "the file was changed by something other than tuner; put an older copy of it back",
        ) from None


def write_json(value: Any) -> bytes:
    return _adapter(type(value)).dump_json(value, indent=1) + b"\n"
