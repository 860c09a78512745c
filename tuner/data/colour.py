"""Any Pillow mode to 8-bit sRGB: deep grays are scaled, colour profiles used, transparency laid on a stated colour."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageCms

if TYPE_CHECKING:
    from ..sections import Colour

RGB: dict[Colour, tuple[int, int, int]] = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}
"""What `data.background` stands for."""

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF 6.0 tags
_WHITE_IS_ZERO = 0
_UNREAD = {
    "I": "has 32-bit or signed samples, which have no agreed white; save it with 8 or 16 bits",
    "F": "has floating-point samples, which have no agreed white; save it with 8 or 16 bits",
    "LAB": "has Lab colours; save it as sRGB",
}


def unread(image: Image.Image) -> str:
    """Why the samples of a picture cannot be used, '' when they can. Known from its header."""
    return _UNREAD.get(image.mode, "")


def notes(image: Image.Image) -> tuple[str, ...]:
    """What `to_rgb` will do to the colours that the user should know. Known from the header."""
    icc = image.info.get("icc_profile")
    if image.mode == "CMYK" and not icc:
        return ("CMYK without a colour profile, converted by the plain formula; colours may be off",)
    _, why = _transform(icc, _space(image))
    return (why,) if why else ()


def to_rgb(image: Image.Image, background: Colour) -> Image.Image:
    """An 8-bit sRGB picture of the same size. `image` is loaded and may be of any mode that `unread` lets pass.

    Raises: what Pillow raises on bad bytes.
    """
    icc = image.info.get("icc_profile")
    if image.mode in _DEEP:
        image = _eight_bits(image)
    alpha = None
    if image.has_transparency_data:
        # Palette and colour-key transparency become a channel first; a plain convert("RGB") would show what is hidden.
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    colours = _with_profile(image, icc)
    if alpha is None or alpha.getextrema() == (255, 255):
        return colours
    ground = Image.new("RGB", colours.size, RGB[background])
    ground.paste(colours, mask=alpha)
    return ground


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bits a sample to 8 by scaling; Pillow's own conversion clips everything above 255."""
    import numpy as np

    tags = getattr(image, "tag_v2", {})  # only TIFF pictures have tags
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    white = (1 << (bits[0] if isinstance(bits, tuple) else bits)) - 1
    values = np.asarray(image).astype(np.uint32)
    gray = np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8-bit pictures of this kind, but not deep ones
        gray = 255 - gray
    scaled = Image.fromarray(gray)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):  # a colour key: one gray is see-through, compared at full depth
        scaled.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return scaled


def _space(image: Image.Image) -> str:
    return {"CMYK": "CMYK", "L": "GRAY", "1": "GRAY", **dict.fromkeys(_DEEP, "GRAY")}.get(image.mode, "RGB")


def _with_profile(image: Image.Image, icc: bytes | None) -> Image.Image:
    """To sRGB by the embedded profile where there is a usable one, else by the plain formula."""
    transform, _ = _transform(icc, _space(image))
    if transform is None:
        return image.convert("RGB")
    mode = transform.input_mode
    return ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform) or image


def _transform(icc: bytes | None, space: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """From the embedded profile to sRGB, None where there is none, it is sRGB or not usable; and a note on the last."""
    if not icc:
        return None, ""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        facts: Any = profile.profile
        own = facts.xcolor_space.strip()
        if own != space and not (own == "RGB" and space == "GRAY"):
            return None, f"its colour profile is for {own or 'nothing'} and not for {space}, so it is not used"
        if own == "RGB" and "srgb" in (facts.profile_description or "").lower():
            return None, ""
        # Nothing of this is shared between threads; making sRGB anew takes microseconds.
        mode = {"CMYK": "CMYK", "GRAY": "L"}.get(own, "RGB")
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB"), ""
    except (OSError, ValueError, TypeError, AttributeError, ImageCms.PyCMSError):
        return None, "its colour profile is damaged and not used; colours may be off"
