"""What text encoders do not read of a caption is told once: a warning where nobody reads it, a note where somebody does."""

from __future__ import annotations

import pytest
from listener import Listener
from tiny_sd35 import load_sd35

from tuner.data.cache import Cache
from tuner.data.encode_text import encode_captions, tell_lengths
from tuner.planning import plan
from tuner.recipe import Recipe

SHORT = "a photo of a dog"
MEDIUM = "a red cup on grass " * 20 + "and at its end a blue cat"
"""Longer than the CLIPs' 77 tokens."""


def encoded(folder, tmp_path, captions, **keys) -> Listener:
    listener = Listener()
    encode_captions(load_sd35(folder, **keys), captions, Cache(tmp_path), watcher=listener)
    return listener


def test_what_t5_alone_reads_is_one_note(sd35_folder, tmp_path):
    listener = encoded(sd35_folder, tmp_path, [SHORT, MEDIUM, MEDIUM.replace("blue", "red")], t5_length=400)
    assert listener.warned == []
    (note,) = listener.said
    assert note.startswith("2 of 3 captions are longer than every text encoder reads")
    assert "T5 alone reads" in note
    assert load_sd35(sd35_folder, t5_length=400).tokenize([MEDIUM]).partly[0].endswith("and at its end a blue cat")


def test_what_nobody_reads_is_a_warning(sd35_folder, tmp_path):
    for keys in ({"t5": False}, {"t5_length": 20}):
        listener = encoded(sd35_folder, tmp_path, [SHORT, MEDIUM], **keys)
        assert listener.warned[0].startswith("1 of 2 captions are longer than the text encoder reads")
    assert "CLIP alone reads" in listener.said[0]  # where T5 is the shorter one
    assert encoded(sd35_folder, tmp_path, [SHORT], t5_length=400).said == []


def test_it_is_told_where_captions_are_not_cached(sd35_folder):
    listener = Listener()
    tell_lengths(load_sd35(sd35_folder, t5_length=400), [SHORT, MEDIUM], listener)
    assert len(listener.said) == 1


@pytest.mark.parametrize("t5", [True, False])
def test_a_plan_tells_it_too(sd35_folder, tmp_path, t5):
    from PIL import Image

    for name, text in (("short", SHORT), ("medium", MEDIUM)):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(text)
    tree = {
        "backbone": {"name": "sd35", "model": str(sd35_folder), "t5": t5},
        "adapters": "lora",
        "task": "finetune",
        "data": {"resolution": 64, "bucket_step": 16, "images": {"path": str(tmp_path)}},
        "train": {"steps": 1},
    }
    planned = plan(Recipe.model_validate(tree))
    told = "note: 1 looks longer than the 75 tokens that every text encoder reads" in str(planned)
    assert (told, planned.captions.partly, len(planned.captions.long)) == ((True, 1, 0) if t5 else (False, 0, 1))
