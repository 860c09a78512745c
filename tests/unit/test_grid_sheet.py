"""The composed picture of a grid: every cell at its place, labels within their room, never too large."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from tuner.contact_sheet import PAPER
from tuner.grid_sheet import PIXELS, WIDEST, GridSheet, cell_size, wrap


def colour(row, column):
    return (10 + 40 * row, 10 + 40 * column, 200)


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (512, 512)], ids=str)
@pytest.mark.parametrize("labelled", [True, False])
def test_every_cell_lies_at_its_place_and_whole(size, labelled):
    rows = ["seed 0", "a row whose label is much longer than any room that is left of it"] if labelled else []
    sheet = GridSheet(["a", "b", "c"], rows, size, "what is the same in every cell")
    for row in range(len(rows) or 1):
        for column in range(3):
            sheet.put(row, column, Image.new("RGB", size, colour(row, column)))
    pixels = np.asarray(sheet.picture)
    width, height = cell_size(size, 3, len(rows) or 1)
    corners = {}
    for row in range(len(rows) or 1):
        for column in range(3):
            ys, xs = np.nonzero((pixels == colour(row, column)).all(2))
            assert len(ys) == width * height
            assert (ys.max() - ys.min() + 1, xs.max() - xs.min() + 1) == (height, width)
            corners[row, column] = (ys.min(), xs.min())
    assert len({y for (row, _), (y, _) in corners.items() if row == 0}) == 1
    assert corners[0, 0][1] < corners[0, 1][1] < corners[0, 2][1]


def test_labels_never_reach_into_a_cell():
    long = "a photo of a mushroom " * 40
    sheet = GridSheet([long, long], [long, long], (64, 64), long)
    empty = np.asarray(sheet.picture)
    cell, left = sheet._cell, sheet._left
    for row in range(2):
        top = sheet._top + row * (cell[1] + 8)
        assert (empty[top : top + cell[1], left:] == PAPER).all()


@given(st.integers(8, 2048), st.integers(8, 2048), st.integers(1, 20), st.integers(1, 20))
def test_the_sheet_is_never_too_large(width, height, columns, rows):
    w, h = cell_size((width, height), columns, rows)
    assert w * columns <= WIDEST
    assert h * rows <= WIDEST
    assert w * h * columns * rows <= PIXELS
    assert min(w, h) >= 1


@given(st.text(max_size=120), st.integers(20, 200), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_label_fits_its_lines_and_says_where_it_was_cut(text, width, lines):
    font = ImageFont.load_default(13)
    made = wrap(text, font, width, lines)
    assert 1 <= len(made) <= lines
    assert all(font.getlength(line) <= width or len(line) == 1 or line == "..." for line in made)
    whole = "".join(text.split())
    shown = "".join("".join(made).split())
    assert shown == whole or (shown.endswith("...") and whole.startswith(shown[:-3]))
