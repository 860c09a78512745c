"""Damaged hypernetwork files, ours and A1111's: refused by name, or read as what they then are; never another error."""

from __future__ import annotations

import json
import random
import struct
import zipfile
from io import BytesIO

import pytest
import torch
from safetensors.torch import load

from tuner.errors import DataError
from tuner.formats.container import pack as pack_tensors
from tuner.formats.container import read_header
from tuner.formats.hypernetwork import describe, pack, read_weights
from tuner.formats.hypernetwork_pt import export_pt, import_pt
from tuner.formats.inspect import inspect_file
from tuner.nn.hypernetwork import Hypernetwork
from tuner.nn.hypernetwork_structure import Structure

JUNK = [None, 3, -1, "x", [], {}, [1] * 20, 1e308, True, {"a": {"b": []}}, "1, 2, 1", [1, 2, 2, 1], float("inf")]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A file of ours and the `.pt` of it."""
    place = tmp_path_factory.mktemp("hypernetwork")
    network = Hypernetwork(Structure(activation="relu", layer_norm=True), [4, 6])
    tensors = {f"hypernetwork.{name}": torch.ones_like(value) for name, value in network.weights().items()}
    ours, theirs = place / "a.safetensors", place / "a.pt"
    ours.write_bytes(pack(tensors, network.structure, "Normal", "sd15", {}))
    export_pt(ours, read_header(ours), theirs)
    buffer = BytesIO()
    torch.save(torch.load(theirs, weights_only=True), buffer, _use_new_zipfile_serialization=False)
    return {"ours": ours.read_bytes(), "zip": theirs.read_bytes(), "old": buffer.getvalue()}


def flip(data: bytes, draw: random.Random, first: int, last: int) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 3, 20])):
        changed[draw.randrange(first, last)] = draw.randrange(256)
    return bytes(changed)


def damaged_ours(data: bytes, draw: random.Random) -> bytes:
    """Bytes of the header, a word of the structure, or a tensor changed; or the file cut off."""
    length = struct.unpack("<Q", data[:8])[0]
    how = draw.randrange(4)
    if how == 0:
        return data[: draw.randrange(len(data))]
    if how == 1:
        return flip(data, draw, 0, 8 + length)
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors = load(data)
    if how == 2:
        words = json.loads(metadata["hypernetwork"])
        words[draw.choice(list(words))] = draw.choice(JUNK)
        metadata["hypernetwork"] = json.dumps(words)
    else:
        name = draw.choice(list(tensors))
        one = tensors.pop(name)
        changes = [one.flatten()[:0], one.flatten(), one[:1], torch.full_like(one, float("nan")), None]
        if (changed := draw.choice(changes)) is not None:
            tensors[draw.choice([name, "hypernetwork.9.k.linear.0.weight", "hypernetwork.x", "unet.x"])] = changed
    return pack_tensors(tensors, metadata)


def damaged_pt(data: bytes, draw: random.Random, kind: str) -> bytes:
    """Bytes of the pickle, or a value of the table, changed; or the file cut off."""
    how = draw.randrange(4)
    if how == 0:
        return data[: draw.randrange(len(data))]
    if how == 1:
        return flip(data, draw, 0, len(data))
    if how == 2 and kind == "zip":
        out = BytesIO()
        with zipfile.ZipFile(BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
            for name in source.namelist():
                body = source.read(name)
                target.writestr(name, flip(body, draw, 0, len(body)) if name.endswith("data.pkl") else body)
        return out.getvalue()
    tree = torch.load(BytesIO(data), weights_only=True)
    tree[draw.choice([*tree, 7, "skip_connection"])] = draw.choice([*JUNK, (tree[4][0], tree[6][1]), torch.zeros(3)])
    out = BytesIO()
    torch.save(tree, out)
    return out.getvalue()


def check_ours(data: bytes, place, case: str) -> None:
    file = place / "case.safetensors"
    file.write_bytes(data)
    try:
        describe(file, read_header(file))
        read_weights(file)
    except DataError as error:
        assert str(file) in error.message, case
    try:
        facts = inspect_file(file)
        assert facts["problem"] is None or facts["problem"], case
    except DataError as error:
        assert str(file) in error.message, case


def check_pt(data: bytes, place, case: str) -> None:
    file, out = place / "case.pt", place / "out.safetensors"
    file.write_bytes(data)
    out.unlink(missing_ok=True)
    try:
        import_pt(file, out)
        describe(out, read_header(out))
    except DataError as error:
        assert str(file) in error.message, case
        assert not out.exists(), case


def run(files, place, count: int) -> None:
    for seed in range(count):
        draw = random.Random(seed)
        check_ours(damaged_ours(files["ours"], draw), place, f"ours {seed}")
        for kind in ("zip", "old"):
            check_pt(damaged_pt(files[kind], draw, kind), place, f"{kind} {seed}")


def test_damage_is_named(files, tmp_path):
    run(files, tmp_path, 60)


@pytest.mark.slow
def test_much_damage_is_named(files, tmp_path):
    run(files, tmp_path, 2000)
