"""Damaged SD3.5 adapter files of both layouts: refused by name, or loaded and converted as what they then are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from test_formats_fuzz import change_header, change_tensors, cut, flip_header
from tiny_sd35 import load_sd35

from tuner.adapters.lora import LoRA
from tuner.draws import Draws
from tuner.errors import DataError
from tuner.formats.about import About
from tuner.formats.convert import convert
from tuner.formats.inspect import inspect_file
from tuner.formats.load import load_adapter
from tuner.formats.lora import DIFFUSERS_FILE, write_lora


@pytest.fixture(scope="module")
def pipe(sd35_folder):
    return load_sd35(sd35_folder).pipeline()


@pytest.fixture(scope="module")
def files(sd35_folder, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("adapter")
    lora = LoRA(rank=2, where="cross_attention", text_encoder_lr=1e-4)
    attachment = lora.attach(load_sd35(sd35_folder), keep_base=False, draws=Draws(0))
    write_lora(place, attachment.state_dict(), rank=2, scale=1.0, about=About("dog", family="sd35", base="base"))
    kohya = convert(place, "kohya", place / "dog_kohya.safetensors").file
    return {"diffusers": place / DIFFUSERS_FILE, "kohya": kohya}


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_no_damage_is_more_than_a_named_refusal(files, pipe, tmp_path, seed):
    draw = random.Random(seed)
    refused = 0
    for number in range(40):
        style = draw.choice(list(files))
        source, data = files[style], files[style].read_bytes()
        kind = draw.choice([cut, flip_header, change_header, None])
        damaged = kind(data, draw) if kind else change_tensors(data, draw, source)
        if damaged == data:
            continue
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(damaged)
        tries = (
            lambda path=path: inspect_file(path),
            lambda path=path, style=style: convert(
                path, "kohya" if style == "diffusers" else "diffusers", path.with_suffix(".out.safetensors")
            ),
            lambda path=path: load_adapter(pipe, path, name="damaged"),
        )
        for attempt in tries:
            try:
                attempt()
            except DataError as error:
                assert str(path) in error.message
                refused += 1
        if "damaged" in {name for names in pipe.get_list_adapters().values() for name in names}:
            pipe.delete_adapters("damaged")
        assert not pipe.get_list_adapters()
    assert refused >= 30
    for file in files.values():
        load_adapter(pipe, file, name="whole")
        pipe.delete_adapters("whole")
