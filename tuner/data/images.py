"""The one decoder: bytes of a picture to an upright 8-bit RGB picture, or a refusal that names the file."""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageCms, ImageEnhance

from ..errors import DataError
from . import colour, picture_kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ..sections import Colour

MAX_PIXELS = 2**26
"""Pixels of the largest picture that is read: 64 MP."""
MAX_SIDE = 16384
"""Pixels of the longest side that is read."""
MAX_ASPECT = 8
"""Longer side over shorter side; beyond it, hardly anything is left of a picture after cropping."""
MIN_SIDE = 16
"""Pixels of the shortest side that is read."""
MAX_BYTES = 2**29
"""Size of the largest file that is read: 512 MiB."""
_MAX_SCANS = 200  # of a progressive JPEG; each costs a pass over the picture, and real files have about ten

BAD_BYTES = (
    OSError,  # truncated data, unidentified image, most of Pillow's own complaints
    SyntaxError,  # Pillow's word for a broken file in the plugins
    ValueError,  # sizes, modes, unicode
    TypeError,
    AttributeError,  # a plugin that gave up half way
    LookupError,  # KeyError and IndexError in tables of tags and modes
    ArithmeticError,  # OverflowError and ZeroDivisionError from header fields
    AssertionError,
    EOFError,
    MemoryError,
    BufferError,
    RuntimeError,  # NotImplementedError and RecursionError too
    struct.error,
    zlib.error,
    Warning,  # Pillow's warnings are raised while a picture is read
    ImageCms.PyCMSError,
    Image.DecompressionBombError,
)
"""Everything that Pillow is known to raise on bad bytes; all of it becomes a DataError that names the file."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # EXIF 2.3 tag: how to turn the stored rows so that the picture is upright
_PILLOW = r"(PIL|pillow_heif)\."  # modules whose warnings are raised while a picture is open
_HARMLESS = (
    "Image appears to be a malformed MPO",  # the second view is broken, and not the photo
    "Metadata Warning, tag",  # one value too many in a tag
    r"Corrupt EXIF data\.\s+Expecting to read 4 bytes",  # the end mark is missing behind complete EXIF data
)
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF 6.0 tag: this page is a thumbnail of another


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture without decoding it."""

    width: int
    """Pixels, once upright."""
    height: int
    """Pixels, once upright."""
    format: str
    """By content: JPEG, PNG, WEBP, GIF, TIFF, BMP, AVIF or HEIF."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it is read."""
    transparent: bool = False
    """Whether some of it may be see-through."""

    @property
    def size(self) -> tuple[int, int]:
        """(W, H) in pixels, once upright."""
        return (self.width, self.height)


def read_header(data: bytes, name: str) -> Header:
    """Size, format and notes of the picture in `data`, from its header alone.

    Raises: DataError naming the file, if it is no picture, animated, or beyond the limits of this module.
    """
    with _opened(data, name) as image:
        width, height = _upright_size(image, _orientation(image, data))
        return Header(width, height, _format(image), colour.notes(image), image.has_transparency_data)


def decode(data: bytes, name: str, background: Colour) -> Image.Image:
    """The whole picture, upright, as 8-bit sRGB; transparent parts show `background`.

    Raises: DataError naming the file, as `read_header` does and if any of its data is missing or broken.
    """
    with _opened(data, name) as image:
        turn = _UPRIGHT.get(_orientation(image, data))
        image.load()
        rgb = colour.to_rgb(image, background)
        return rgb.transpose(turn) if turn is not None else rgb


def fit(image: Image.Image, size: tuple[int, int], place: tuple[float, float] = (0.5, 0.5)) -> NDArray[np.uint8]:
    """The part of `image` that covers `size` (W, H), resampled once: (H, W, 3) uint8.

    `place` says where the cut lies along each axis: 0 keeps the left or top edge, 1 the right or bottom one.
    """
    import numpy as np

    return np.array(image.resize(size, Image.Resampling.LANCZOS, box=cut(image.size, size, place)))


def cut(
    size: tuple[int, int], target: tuple[int, int], place: tuple[float, float] = (0.5, 0.5)
) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) in pixels of a picture of `size` that `fit` resamples to `target`."""
    scale = max(target[0] / size[0], target[1] / size[1])
    box = []
    for side, wanted, share in zip(size, target, place, strict=True):
        length = min(side, wanted / scale)
        # Whole source pixels, so that a picture that needs no scaling is cut and not blurred by half a pixel.
        start = min(round((side - length) * share), side - length)
        box.append((start, start + length))
    (left, right), (top, bottom) = box
    return (left, top, min(right, size[0]), min(bottom, size[1]))


def jitter(image: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, each scaled by a factor uniform in [1 - strength, 1 + strength)."""
    low, high = max(0.0, 1 - strength), 1 + strength
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(low + (high - low) * generator.random())
    return image


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """The picture with its header read and checked. Whatever Pillow raises while it is open becomes a DataError."""
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: {len(data) >> 20} MiB, more than the limit of {MAX_BYTES >> 20} MiB")
    kind = picture_kinds.kind(data)
    if kind is None:
        raise DataError(f"{name}: {picture_kinds.why_not(data)}")
    if kind == "JPEG" and data.count(b"\xff\xda") > _MAX_SCANS:
        raise DataError(f"{name}: a JPEG of more than {_MAX_SCANS} scans, which no camera makes")
    try:
        with _PILLOW_QUIET, _open(data, name, kind) as image:
            reason = _shape_against(image.size) or _content_against(image)
            if reason:
                raise DataError(f"{name}: {reason}")
            yield image
    except BAD_BYTES as error:
        raise DataError(f"{name}: {_in_words(error, kind)}") from error


def _shape_against(size: tuple[int, int]) -> str:
    """Why a picture of this size is refused; '' when it is not."""
    width, height = size
    if width * height > MAX_PIXELS:
        return f"{width}x{height} is {width * height / 1e6:.0f} million pixels, over the limit of 64 MP; scale it down"
    if max(width, height) > MAX_SIDE:
        return f"{width}x{height} has a side of more than {MAX_SIDE} pixels; scale it down"
    if min(width, height) < MIN_SIDE:
        return f"{width}x{height} has a side of fewer than {MIN_SIDE} pixels; too small to learn from"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{width}x{height} is more than {MAX_ASPECT} times as long as it is short; crop it"
    return ""


def _content_against(image: Image.Image) -> str:
    """Why a picture is refused by what its header says of the content; '' when it is not."""
    # An MPO is a JPEG with a second view (depth, a preview) behind the photo, and no animation.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        if image.format == "TIFF":
            return "holds several pages; save the page you want as a picture of its own"
        return f"an animated {image.format}; save the frame you want as a picture of its own"
    tags = getattr(image, "tag_v2", {})
    if tags.get(_SUBFILE_TYPE, 0) & _REDUCED:
        return "its first page is a thumbnail (a raw photo?); export it as JPEG or PNG"
    return colour.unread(image)


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else str(image.format)


def _orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation that is still to be applied, 1 for none."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself when it loads them, and its size is the upright one from the start
    if image.format == "PNG" and not any(word in data for word in _PNG_EXIF):
        return 1  # asking Pillow would decode the whole picture, for the chunk may stand at the end
    turn = image.getexif().get(_ORIENTATION, 1)
    return turn if isinstance(turn, int) else 1


def _upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def _open(data: bytes, name: str, kind: str) -> Image.Image:
    if kind != "HEIF":
        return Image.open(io.BytesIO(data), formats=[kind])
    try:
        from pillow_heif.as_plugin import HeifImageFile  # type: ignore[import-not-found]
    except ImportError as error:
        raise DataError(
            f"{name}: a HEIC picture, which needs one more package",
            "pip install 'diffusion-tuner[data]', or save it as JPEG",
        ) from error
    # The class itself rather than pillow-heif's registration, which would change Pillow for the whole process.
    return HeifImageFile(io.BytesIO(data))


def _in_words(error: BaseException, kind: str) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "more pixels than the limit of 64 MP; scale it down"
    if isinstance(error, MemoryError):
        return f"this {kind} needs more memory than there is"
    text = " ".join(str(error).split()).rstrip(".")[:120] or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):  # its text names our buffer
        text = "its header makes no sense"
    if isinstance(error, Warning) and kind != "TIFF" and "APNG" not in text:
        return f"its EXIF data is damaged ({text}), so which way is up is unknown; save it from a picture editor"
    return f"broken {kind} ({text}); copy it again or save it from a picture editor"


class _PillowQuiet:
    """While any picture is open, Pillow's warnings are raised and its log lines kept off the terminal.

    `warnings.catch_warnings` is not safe between threads, so the first picture to open enters it and the last to close
    leaves it. Only warnings from Pillow's own modules are touched.
    """

    def __init__(self) -> None:
        self.lock, self.depth = threading.Lock(), 0
        self.silence = logging.NullHandler()
        self.caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if self.depth == 0:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.filterwarnings("error", module=_PILLOW)
                for harmless in _HARMLESS:
                    warnings.filterwarnings("ignore", message=harmless, module=_PILLOW)
                logging.getLogger("PIL").addHandler(self.silence)
            self.depth += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                logging.getLogger("PIL").removeHandler(self.silence)
                self.caught.__exit__(None, None, None)


_PILLOW_QUIET = _PillowQuiet()
