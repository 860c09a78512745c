"""A LoRA is the same in every tool's spelling, and comes back from another bit for bit."""

from __future__ import annotations

import foreign_loras
import pytest
import torch
from foreign_loras import SPELLINGS, WITH_TEXT
from safetensors.torch import load_file

from tuner.draws import Draws
from tuner.formats.container import read_header
from tuner.formats.convert import convert, read_updates
from tuner.formats.fusing import Update
from tuner.formats.inspect import inspect_file
from tuner.formats.kinds import recognise

UNET = (
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v",
)
JOINT = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.to_k",
    "transformer_blocks.0.attn.to_v",
    "transformer_blocks.7.attn.add_q_proj",
    "transformer_blocks.7.attn.add_k_proj",
    "transformer_blocks.7.attn.add_v_proj",
    "transformer_blocks.7.attn.to_add_out",
    "transformer_blocks.3.attn2.to_out.0",
    "transformer_blocks.3.ff_context.net.0.proj",
    "transformer_blocks.23.norm1_context.linear",
    "time_text_embed.timestep_embedder.linear_1",
    "norm_out.linear",
)
TEXT = "text_model.encoder.layers.{}.self_attn.q_proj"
LAYERS = {"sd15": UNET, "sd35": JOINT}
DENOISER = {"sd15": "unet", "sd35": "transformer"}


def updates(family: str, seed: int, rank: int, scale: float, dtype: torch.dtype, *, text: bool) -> list[Update]:
    """Of layers with real names; a norm that ends a stream has two outputs a channel."""
    places = [(DENOISER[family], layer) for layer in LAYERS[family]]
    if text:
        places += [("text_encoder", TEXT.format(n)) for n in (0, 11)]
        places += [("text_encoder_2", TEXT.format(31))] if family == "sd35" else []
    made = []
    for number, (part, layer) in enumerate(places):
        rows = 12 if layer in ("norm_out.linear", "transformer_blocks.23.norm1_context.linear") else 9
        draws = Draws(seed)
        down, up = (
            torch.from_numpy(draws.normal(shape, "law", str(number), side)).to(dtype)
            for side, shape in (("down", (rank, 6)), ("up", (rows, rank)))
        )
        made.append(Update(part, layer, down, up, scale))
    return made


def read(path):
    header = read_header(path)
    return {(u.component, u.layer): u for u in read_updates(path, header, recognise(path, header))}


def same(one: dict, other: dict) -> None:
    """Bit for bit, but for whether a scale stands beside the factors or within the upper one."""
    assert one.keys() == other.keys()
    for place, update in one.items():
        found = other[place]
        assert torch.equal(update.down, found.down), place
        assert torch.equal(update.up.float() * update.scale, found.up.float() * found.scale), place


CASES = [(family, spelling) for family, spellings in SPELLINGS.items() for spelling in spellings]
KEYLESS = ("diffusers", "attention processors")


NUMBERS = [(1, 1.0, torch.float32), (4, 0.5, torch.float16), (2, 4.0, torch.bfloat16)]
"""Rank, scale and precision. A power of two rounds nothing."""


@pytest.mark.parametrize("numbers", NUMBERS, ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("family", "spelling"), CASES)
def test_every_spelling_is_the_same_lora_there_and_back(tmp_path, family, spelling, numbers):
    folder, (rank, power, dtype) = tmp_path, numbers
    scale = 1.0 if spelling in KEYLESS else power
    want = updates(family, 0, rank, scale, dtype, text=spelling in WITH_TEXT)
    file = foreign_loras.write(folder / "a" / "own.safetensors", spelling, family, want)
    same({(u.component, u.layer): u for u in want}, read(file))
    told = inspect_file(file)
    assert (told["format"], told["backbone"], told["problem"], told["rank"]) == (
        spelling,
        family,
        None,
        told["rank"] if spelling in ("kohya", "comfyui", "original") else rank,
    )
    if spelling not in ("comfyui", "original") and not (spelling == "kohya" and family == "sd35"):
        assert told["alpha"] == pytest.approx(scale * rank)
    ways = ("kohya", "diffusers") if spelling == "diffusers" else ("diffusers", "kohya")
    there = convert(file, ways[0], folder / "there.safetensors").file
    back = convert(there, ways[1], folder / "back.safetensors").file
    same(read(file), read(there))
    same(read(file), read(back))
    again = load_file(convert(back, ways[0], folder / "again.safetensors").file)
    first = load_file(there)
    assert again.keys() == first.keys()
    assert all(torch.equal(again[key], first[key]) for key in first)


@pytest.mark.parametrize(("family", "spelling"), [case for case in CASES if case[1] not in KEYLESS])
def test_a_scale_that_rounds_stays_within_float32(tmp_path, family, spelling):
    want = updates(family, 1, 3, 1 / 3, torch.float32, text=spelling in WITH_TEXT)
    file = foreign_loras.write(tmp_path / "own.safetensors", spelling, family, want)
    there = read(convert(file, "diffusers", tmp_path / "there.safetensors").file)
    for update in want:
        assert update.differs(there[update.component, update.layer], 1e-6) is None
