"""Damaged adapter files: refused by name, or loaded as what they then are; never another error."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from tuner import toybox
from tuner.adapters.lora import LoRA
from tuner.backbones.sd15 import SD15
from tuner.draws import Draws
from tuner.errors import DataError
from tuner.formats.about import About
from tuner.formats.container import pack, read_header
from tuner.formats.inspect import inspect_file
from tuner.formats.load import load_adapter
from tuner.formats.lora import DIFFUSERS_FILE, write_lora

FILES = (DIFFUSERS_FILE, "dog.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("adapter")
    model = SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)
    attachment = LoRA(rank=2, where="cross_attention", text_encoder_lr=1e-4).attach(
        model, keep_base=False, draws=Draws(0)
    )
    write_lora(place, attachment.state_dict(), rank=2, scale=1.0, about=About("dog", base="toybox"))
    return place


@pytest.fixture(scope="module")
def pipe():
    return StableDiffusionPipeline.from_pretrained(str(toybox.folder("sd15")), local_files_only=True)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def flip_header(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    length = struct.unpack("<Q", data[:8])[0]
    for _ in range(draw.choice([1, 1, 3, 20])):
        changed[draw.randrange(8 + length)] = draw.randrange(256)
    return bytes(changed)


def change_header(data: bytes, draw: random.Random) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + length])
    name = draw.choice(list(tree))
    junk = draw.choice([None, 3, -1, "x", [], {}, [1] * 20, {"dtype": "F32"}, 1e308, True, {"a": {"b": []}}])
    if draw.random() < 0.5 and isinstance(tree[name], dict):
        tree[name][draw.choice(list(tree[name]))] = junk
    elif draw.random() < 0.5:
        tree[name] = junk
    else:
        tree[draw.choice(["unet.x", "lora_unet_x.alpha", "", "transformer.x", "\x00"])] = tree.pop(name)
    text = json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def change_tensors(data: bytes, draw: random.Random, source: Path) -> bytes:
    tensors = load_file(source)
    name = draw.choice(list(tensors))
    one = tensors[name].clone()
    changes = [
        lambda: one.fill_(draw.choice([float("nan"), float("inf"), float("-inf")])),
        lambda: one.flatten(),
        lambda: one.flatten()[:0],
        lambda: torch.zeros(3, 3, 3),
        lambda: torch.zeros(10_000),
        lambda: torch.zeros(1, 1, dtype=torch.bfloat16),
        lambda: one.half(),
    ]
    metadata = dict(read_header(source).metadata)
    if draw.random() < 0.4:
        junk = [
            "",
            "{",
            "[]",
            '{"unet.r": "x"}',
            '{"unet.r": -3}',
            '{"unet.nonsense": 1}',
            "null",
            "[" * 50_000,
            '{"unet.lora_alpha": 1e999}',
        ]
        metadata["lora_adapter_metadata"] = draw.choice(junk)
    else:
        tensors[name] = draw.choice(changes)()
    return pack(tensors, metadata)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_is_more_than_a_named_refusal(folder, pipe, tmp_path, seed):
    draw = random.Random(seed)
    refused = 0
    for number in range(50):
        source = folder / draw.choice(FILES)
        data = source.read_bytes()
        kind = draw.choice([cut, flip_header, change_header, None])
        damaged = kind(data, draw) if kind else change_tensors(data, draw, source)
        if damaged == data:
            continue
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(damaged)
        try:
            inspect_file(path)
        except DataError as error:
            assert str(path) in error.message
        try:
            load_adapter(pipe, path, name="damaged")
        except DataError as error:
            assert str(path) in error.message
            refused += 1
        else:
            pipe.delete_adapters("damaged")
        assert not pipe.get_list_adapters()
    assert refused >= 25
    load_adapter(pipe, folder, name="whole")
    pipe.delete_adapters("whole")
