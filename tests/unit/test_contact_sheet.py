"""The sheet of pictures: every picture at its place, whatever the sentences are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from tuner.contact_sheet import MARGIN, contact_sheet, cut


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_every_picture_lies_in_its_cell():
    colours = [[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (9, 9, 9)]]
    sheet = np.asarray(
        contact_sheet([("one", list(map(flat, colours[0]))), ("two", list(map(flat, colours[1])))], ["a", "b"], 32)
    )
    for row in range(2):
        for column in range(2):
            left = MARGIN + column * (32 + MARGIN)
            places = np.argwhere((sheet[:, left : left + 32] == colours[row][column]).all(2))
            assert len(places) == 32 * 32


def test_a_short_row_and_other_shapes_fit():
    sheet = contact_sheet([("", [flat((1, 2, 3), (90, 30))]), ("", [flat((7, 7, 7))] * 3)], [], 40)
    assert sheet.width == MARGIN + 3 * (40 + MARGIN)
    assert (np.asarray(sheet) == (1, 2, 3)).all(2).sum() == 40 * 13


@given(st.text(max_size=60), st.integers(5, 200))
@settings(max_examples=50, deadline=None)
def test_a_sentence_is_cut_to_its_room(text, width):
    font = ImageFont.load_default(13)
    short = cut(text, font, width)
    assert "\n" not in short
    assert short == "..." or font.getlength(short) <= width
