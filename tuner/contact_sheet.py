"""Many small pictures on one sheet, with a sentence above each row and a name above each column."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

MARGIN = 8
TEXT = 13
"""Height of a line of text in pixels."""
PAPER, INK = (255, 255, 255), (40, 40, 46)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image]]], columns: Sequence[str], cell: int, title: str = ""
) -> Image:
    """Lay pictures out in rows.

    Args:
        rows: what is said above each row, and its pictures; a row may be shorter than the others.
        columns: a name above each column.
        cell: width and height of a picture on the sheet, in pixels; small pictures are enlarged without smoothing.
        title: one line at the top.

    Returns: an RGB picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT)
    line = round(TEXT * 1.5)
    across = max([len(columns), *(len(pictures) for _, pictures in rows)])
    top = MARGIN + line * (bool(title) + bool(columns))
    width = MARGIN + across * (cell + MARGIN)
    sheet = Image.new("RGB", (width, top + len(rows) * (line + cell + MARGIN)), PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((MARGIN, MARGIN), cut(title, font, width - 2 * MARGIN), fill=INK, font=font)
    for place, name in enumerate(columns):
        left = MARGIN + place * (cell + MARGIN)
        pen.text((left, top - line), cut(name, font, cell), fill=INK, font=font)
    for row, (said, pictures) in enumerate(rows):
        y = top + row * (line + cell + MARGIN)
        pen.text((MARGIN, y), cut(said, font, width - 2 * MARGIN), fill=INK, font=font)
        for place, picture in enumerate(pictures):
            sheet.paste(_fitted(picture, cell), (MARGIN + place * (cell + MARGIN), y + line))
    return sheet


def cut(text: str, font: object, width: int) -> str:
    """A text on one line, shortened to fit a width in pixels."""
    text = " ".join(text.split())
    measure = font.getlength  # type: ignore[attr-defined]
    if measure(text) <= width:
        return text
    while text and measure(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _fitted(picture: Image, cell: int) -> Image:
    """A picture inside a square of `cell` pixels, its shape kept, centred on the sheet's paper."""
    from PIL import Image

    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    smooth = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (cell, cell), PAPER)
    square.paste(picture.convert("RGB").resize(size, smooth), ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square
