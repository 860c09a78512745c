"""A grid of pictures as one picture with its labels, pasted cell by cell so that few pictures are in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .contact_sheet import INK, MARGIN, PAPER, TEXT, cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

SMALLEST, WIDEST, PIXELS = 96, 8192, 40_000_000
"""A cell's shorter side below which small pictures are enlarged; the sheet's longest side; its pixels."""
LINES = 4
"""Lines of a label; what is longer ends in `...`."""
BROADEST = 160
"""Width that the labels on the left may have, in pixels."""


class GridSheet:
    """The sheet of a grid; every cell has the same size.

    Args:
        columns: a label above each.
        rows: a label left of each; empty where there is one row without a label.
        size: width and height of a picture.
        title: said at the top.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[str], size: tuple[int, int], title: str) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self._font: Any = ImageFont.load_default(TEXT)
        self._line = round(TEXT * 1.4)
        self._cell = cell_size(size, len(columns), len(rows) or 1)
        width, height = self._cell
        broad = min(BROADEST, max((int(self._font.getlength(text)) + 1 for text in rows), default=0))
        self._left = MARGIN + (broad + MARGIN if rows else 0)
        across = self._left + len(columns) * (width + MARGIN)
        head = wrap(title, self._font, across - 2 * MARGIN)
        tops = [wrap(text, self._font, width) for text in columns]
        named = MARGIN + len(head) * self._line + MARGIN
        self._top = named + max(map(len, tops)) * self._line + MARGIN // 2
        self.picture = Image.new("RGB", (across, self._top + (len(rows) or 1) * (height + MARGIN)), PAPER)
        self._pen = ImageDraw.Draw(self.picture)
        self._write(head, MARGIN, MARGIN)
        for column, lines in enumerate(tops):
            self._write(lines, self._left + column * (width + MARGIN), named)
        room = max(1, min(LINES, height // self._line))
        for row, text in enumerate(rows):
            self._write(wrap(text, self._font, broad, room), MARGIN, self._top + row * (height + MARGIN))

    def put(self, row: int, column: int, picture: Image) -> None:
        """Paste a picture into its cell."""
        from PIL import Image

        width, height = self._cell
        smooth = Image.Resampling.NEAREST if width >= picture.width else Image.Resampling.LANCZOS
        fitted = picture.convert("RGB").resize((width, height), smooth)
        self.picture.paste(fitted, (self._left + column * (width + MARGIN), self._top + row * (height + MARGIN)))

    def _write(self, lines: Sequence[str], x: int, y: int) -> None:
        for number, line in enumerate(lines):
            self._pen.text((x, y + number * self._line), line, fill=INK, font=self._font)


def cell_size(size: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """Width and height of a picture on the sheet: enlarged by a whole factor where small, else as large as fits."""
    factor = float(-(-SMALLEST // min(size))) if min(size) < SMALLEST else 1.0
    for wanted, most in ((columns * size[0], WIDEST), (rows * size[1], WIDEST)):
        factor = min(factor, most / wanted)
    factor = min(factor, (PIXELS / (columns * size[0] * rows * size[1])) ** 0.5)
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def wrap(text: str, font: Any, width: int, lines: int = LINES) -> list[str]:
    """A text on at most so many lines of a width in pixels, broken between words where it can be; what does not fit
    ends in `...`. At least one line.
    """
    words, made = text.split(), [""]
    while words:
        word = words.pop(0)
        longer = f"{made[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            made[-1] = longer
        elif len(made) == lines:
            rest = " ".join([longer, *words])  # a letter has a pixel at least, so more of them than that cannot fit
            made[-1] = cut(rest if len(rest) <= width else rest[:width] + "...", font, width)
            break
        elif made[-1]:
            made.append("")
            words.insert(0, word)
        else:  # one word that is wider than a line
            count = max(1, max((n for n in range(1, len(word)) if font.getlength(word[:n]) <= width), default=1))
            made[-1] = word[:count]
            made.append("")
            words.insert(0, word[count:])
    return made if made[-1] or len(made) == 1 else made[:-1]
