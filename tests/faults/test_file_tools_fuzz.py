"""Damaged files before merge, resize, extract and check-adapter: a named refusal or a sound answer, never a traceback."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import odd_loras
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tuner import toybox
from tuner.cli import call
from tuner.formats.container import pack, read_header

EXPECTED = {0, 2, 3, 65}
"""Done, usage, something is wrong with the file, data unusable; 1 would be a fault of ours."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    pairs = dict(list(odd_loras.factors("sd15", 1).items())[-8:])
    odd_loras.save(place / "kohya.safetensors", odd_loras.kohya(pairs, alpha=2.0))
    config = {"unet.lora_alpha": 6, "text_encoder.lora_alpha": 6}
    odd_loras.save(place / "diffusers.safetensors", odd_loras.diffusers(pairs), lora_adapter_metadata=config)
    joint = dict(list(odd_loras.factors("sd35", 1, text=False).items())[:8])
    odd_loras.save(place / "joint.safetensors", odd_loras.diffusers(joint))
    return place


def damaged(data: bytes, source: Path, draw: random.Random) -> bytes:
    """One of: cut, bytes changed, a header's entry changed, a tensor changed, a key renamed, added or taken away."""
    length = struct.unpack("<Q", data[:8])[0]
    what = draw.randrange(6)
    if what == 0:
        return data[: draw.randrange(len(data))]
    if what == 1:
        changed = bytearray(data)
        for _ in range(draw.choice([1, 3, 20])):
            changed[draw.randrange(8 + length)] = draw.randrange(256)
        return bytes(changed)
    if what == 2:
        tree = json.loads(data[8 : 8 + length])
        name = draw.choice(list(tree))
        junk = draw.choice([None, -1, "x", [], {}, {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}, True])
        if isinstance(tree[name], dict) and tree[name] and draw.random() < 0.5:
            tree[name][draw.choice(list(tree[name]))] = junk
        else:
            tree[name] = junk
        text = json.dumps(tree).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]
    tensors, metadata = load_file(source), dict(read_header(source).metadata)
    name = draw.choice(list(tensors))
    if what == 3:
        one = tensors[name]
        changes = [
            lambda: torch.full_like(one, draw.choice([float("nan"), float("inf"), 0.0, 1e30])),
            lambda: one.flatten(),
            lambda: one.flatten()[:0],
            lambda: torch.zeros(3, 3, 3, 3),
            lambda: torch.zeros(1, 1, dtype=torch.bfloat16),
            lambda: torch.cat([one.reshape(one.shape[0] if one.ndim else 1, -1)] * 2),
        ]
        tensors[name] = draw.choice(changes)()
    elif what == 4:
        words = [
            "unet.x",
            "lora_unet_x.alpha",
            "",
            "lora_te1_",
            "lycoris_",
            "\x00",
            "diffusion_model.",
            "base_model.model.",
        ]
        prefix = draw.choice(words)
        for key in draw.sample(list(tensors), draw.choice([1, 2, len(tensors)])):
            moved = tensors.pop(key)
            tensors[prefix + key.partition("_" if key.startswith("lora_") else ".")[2]] = moved
    else:
        for key in draw.sample(list(tensors), draw.randrange(1, len(tensors))):
            del tensors[key]
        junk = [
            "",
            "{",
            "[]",
            '{"unet.lora_alpha": "x"}',
            '{"unet.lora_alpha": 1e999}',
            '{"unet.alpha_pattern": 3}',
            "null",
        ]
        metadata["lora_adapter_metadata"] = draw.choice(junk)
    return pack(tensors, metadata)


def commands(path: Path, other: Path, out: Path) -> list[list[str]]:
    return [
        ["check-adapter", str(path)],
        ["check-adapter", str(path), "--fix", "--drop", "--out", str(out)],
        ["resize", str(path), "--rank", "1", "--out", str(out)],
        ["merge", f"{path}:0.5", f"{other}:-2", "--out", str(out)],
    ]


def try_all(path: Path, other: Path, folder: Path, capsys) -> None:
    for number, words in enumerate(commands(path, other, folder / "new.safetensors")):
        code = call(words)
        said = capsys.readouterr()
        assert code in EXPECTED, (words, code, said)
        assert "Traceback" not in said.out + said.err
        assert code in (0, 3) or str(path) in said.err or str(other) in said.err, (words, said)
        new = folder / "new.safetensors"
        if new.exists():
            assert code in (0, 3), words
            assert read_header(new).tensors
            new.unlink()
        assert not list(folder.glob(".tmp*")), (number, words)


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))])
def test_no_damage_is_more_than_a_named_refusal(folder, tmp_path, capsys, seed):
    draw = random.Random(seed)
    for number in range(12):
        source = folder / draw.choice(["kohya.safetensors", "diffusers.safetensors", "joint.safetensors"])
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(damaged(source.read_bytes(), source, draw))
        try_all(path, folder / "kohya.safetensors", tmp_path, capsys)


KEYS = st.one_of(
    st.text(max_size=20),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["unet.", "lora_unet_", "lora_te_", "lora_te1_", "transformer.", "lycoris_", "base_model.model.", ""]),
        st.sampled_from(["mid_block.attentions.0.proj_in", "mid_block_attentions_0_proj_in", "transformer_blocks.0.attn.to_q", "x"]),
        st.sampled_from(
            [".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".alpha", ".hada_w1_a", ".lokr_w1",
             ".dora_scale", ".diff", "_lora.up.weight", ".lora_mid.weight", ""]
        ),
    ),
)  # fmt: skip
SHAPES = st.sampled_from([(), (1,), (2, 48), (48, 2), (2, 2), (2, 48, 1, 1), (48, 2, 1, 1), (0, 3), (2, 3, 3)])


@given(st.dictionaries(KEYS, SHAPES, max_size=6), st.integers(0, 9))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_keys_of_any_kind(folder, tmp_path, capsys, keys, seed):
    g = torch.Generator().manual_seed(seed)
    path = tmp_path / "any.safetensors"
    path.write_bytes(pack({key: torch.randn(shape, generator=g) for key, shape in keys.items()}, {"format": "pt"}))
    try_all(path, folder / "diffusers.safetensors", tmp_path, capsys)


@pytest.mark.parametrize("damage", ["cut", "nan", "missing", "not json", "absent"])
def test_a_damaged_model(tmp_path, capsys, folder, damage):
    """As the base of a merge, and as what is extracted from."""
    import shutil

    model = tmp_path / "model"
    shutil.copytree(toybox.folder("sd15"), model)
    file = model / "text_encoder" / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "nan":
        tensors = load_file(file)
        tensors[next(name for name in tensors if name.endswith("q_proj.weight"))].fill_(float("nan"))
        file.write_bytes(pack(tensors, {"format": "pt"}))
    elif damage == "missing":
        file.unlink()
    elif damage == "not json":
        (model / "text_encoder" / "config.json").write_text("{")
    else:
        shutil.rmtree(model)
    out = tmp_path / "out.safetensors"
    for words in (
        ["extract", str(model), "--base", "toybox", "--backbone", "sd15", "--rank", "1", "--out", str(out)],
        ["extract", "toybox", "--base", str(model), "--backbone", "sd15", "--rank", "1", "--out", str(out)],
        ["merge", str(folder / "kohya.safetensors"), "--base", str(model), "--out", str(tmp_path / "merged")],
        ["export", str(model), "--to", "single-file", "--out", str(out)],
    ):
        code = call(words)
        said = capsys.readouterr()
        assert code in (2, 65), (words, code, said)
        assert "Traceback" not in said.out + said.err
        assert not out.exists()
        assert not (tmp_path / "merged").exists()
        assert not list(tmp_path.glob(".tmp*"))
