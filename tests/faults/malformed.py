"""Weight files that are broken on purpose, each in a way of its own: seeded, so that a case has a name for ever."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tuner.formats.container import pack, read_header

Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Case:
    """One broken file."""

    name: str
    path: Path
    header_tells: bool = True
    """Whether its header alone shows the fault; values that are not finite do not show there."""


def safetensors_cases(folder: Path, sources: Mapping[str, Path], count: int) -> Iterator[Case]:
    """`count` files that are no LoRA or word that can be used, of every kind in turn."""
    kinds = [*HEADERS, *ENTRIES, *TENSORS, *CONTENTS]
    names = list(sources)
    for number in range(count):
        kind, draw = kinds[number % len(kinds)], random.Random(number)
        source = sources[names[number // len(kinds) % len(names)]]
        path = folder / f"{number}.safetensors"
        if kind in CONTENTS:
            path.write_bytes(CONTENTS[kind](source.read_bytes(), draw))
        elif kind in HEADERS:
            path.write_bytes(HEADERS[kind](source.read_bytes(), draw))
        elif kind in ENTRIES:
            path.write_bytes(
                _with_tree(source.read_bytes(), lambda tree, kind=kind, draw=draw: ENTRIES[kind](tree, draw))
            )
        else:
            path.write_bytes(_with_tensors(source, TENSORS[kind], draw))
        yield Case(f"{number} {source.stem}: {kind}", path, kind not in VALUES)


# ---- the first bytes


def _length(value: int) -> Change:
    return lambda data, _: struct.pack("<Q", value) + data[8:]


def _text(change: Callable[[bytes, random.Random], bytes]) -> Change:
    """The header's text changed, its length with it."""

    def apply(data: bytes, draw: random.Random) -> bytes:
        size = struct.unpack("<Q", data[:8])[0]
        text = change(data[8 : 8 + size], draw)
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return apply


def _insert(what: bytes) -> Change:
    def apply(text: bytes, draw: random.Random) -> bytes:
        at = draw.randrange(len(text.rstrip()))
        return text[:at] + what + text[at:]

    return apply


def _twice(text: bytes, _: random.Random) -> bytes:
    """The first tensor's name stands there twice."""
    tree = json.loads(text)
    name = next(key for key in tree if key != "__metadata__")
    entry = json.dumps({name: tree[name]})[1:-1]
    return b"{" + entry.encode() + b"," + text.strip()[1:]


HEADERS: Mapping[str, Change] = {
    "an empty header": _length(0),
    "a header that ends in the middle": lambda d, r: struct.pack("<Q", r.randrange(1, len(d) // 4)) + d[8:],
    "a header longer than the file": lambda d, _: _length(len(d) + 1)(d, random.Random(0)),
    "a header of 2 to the 63": _length(2**63),
    "a header of 2 to the 64 less one": _length(2**64 - 1),
    "a header of 1 GB in a sparse file": lambda d, _: _length(2**30)(d, random.Random(0)),
    "cut off in the header": lambda d, r: d[: r.randrange(1, 200)],
    "cut off in the tensors": lambda d, r: d[: len(d) - r.randrange(1, 64)],
    "more bytes than are described": lambda d, r: d + bytes(r.randrange(1, 64)),
    "not UTF-8": _text(lambda text, _: text.replace(b'"', b'"\xff\xfe', 1)),
    "a NUL in the text": _text(_insert(b"\0")),
    "a brace in the wrong place": _text(lambda text, r: b"}" + text),
    "a name twice": _text(_twice),
    "brackets 100,000 deep": _text(lambda text, _: b"[" * 100_000),
    "tables 50,000 deep": _text(lambda text, _: b'{"a":' * 50_000),
    "a number of 10,000 digits": _text(lambda text, _: text.replace(b'"shape":[', b'"shape":[' + b"9" * 10_000 + b",", 1)),
    "a list in place of a table": _text(lambda text, _: b"[]"),
    "null in place of a table": _text(lambda text, _: b"null"),
    "not a number": _text(lambda text, _: text.replace(b'"shape":[', b'"shape":[NaN,', 1)),
    "100,001 tensors": _text(
        lambda text, _: json.dumps(
            {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_001)}
        ).encode()
    ),
}  # fmt: skip


# ---- what the header says of tensors


def _with_tree(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    tree = json.loads(data[8 : 8 + size])
    change(tree)
    text = json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _entry(field: str, value: Any) -> Callable[[dict[str, Any], random.Random], None]:
    def apply(tree: dict[str, Any], draw: random.Random) -> None:
        name = draw.choice(_names(tree))
        tree[name][field] = value(tree[name]) if callable(value) else value

    return apply


def _renamed(new: Callable[[str], str]) -> Callable[[dict[str, Any], random.Random], None]:
    def apply(tree: dict[str, Any], draw: random.Random) -> None:
        name = draw.choice(_names(tree))
        tree[new(name)] = tree.pop(name)

    return apply


def _names(tree: Mapping[str, Any]) -> list[str]:
    """Of tensors that hold numbers."""
    return [name for name in tree if name != "__metadata__" and tree[name]["data_offsets"][1] > 0]


def _said(value: Any) -> Callable[[dict[str, Any], random.Random], None]:
    return lambda tree, _: tree.update(__metadata__=value)


ENTRIES: Mapping[str, Callable[[dict[str, Any], random.Random], None]] = {
    "an unknown type": _entry("dtype", "F4"),
    "a type that is a number": _entry("dtype", 32),
    "a wider type": _entry("dtype", "F64"),
    "whole numbers": _entry("dtype", lambda e: {"F32": "I32", "F16": "I16", "BF16": "I16"}[e["dtype"]]),
    "a negative shape": _entry("shape", lambda e: [-n for n in e["shape"]] or [-1]),
    "a huge shape": _entry("shape", [2**40, 2**40]),
    "a shape beyond 64 bit": _entry("shape", [2**70]),
    "a shape of fractions": _entry("shape", [1.5, 2]),
    "a shape of words": _entry("shape", ["4", "8"]),
    "a shape of truths": _entry("shape", [True, True]),
    "a shape of 20 sizes": _entry("shape", [1] * 20),
    "a shape that is none": _entry("shape", None),
    "one row too many": _entry("shape", lambda e: [*e["shape"][:-1], e["shape"][-1] + 1] if e["shape"] else [2]),
    "an overlap behind a hole": _entry("data_offsets", lambda e: [at + 4 for at in e["data_offsets"]]),
    "an overlap alone": _entry("data_offsets", lambda e: [e["data_offsets"][0], e["data_offsets"][1] + 4]),
    "offsets the other way round": _entry("data_offsets", lambda e: e["data_offsets"][::-1]),
    "a negative offset": _entry("data_offsets", lambda e: [-4, e["data_offsets"][1]]),
    "an offset behind the end": _entry("data_offsets", lambda e: [10**9, 10**9 + 4]),
    "three offsets": _entry("data_offsets", [0, 4, 8]),
    "an offset of 2 to the 64": _entry("data_offsets", [0, 2**64]),
    "no offsets": lambda tree, r: tree[r.choice(_names(tree))].pop("data_offsets"),
    "no description": lambda tree, r: tree.update({r.choice(_names(tree)): None}),
    "an empty name": _renamed(lambda name: ""),
    "a NUL in a name": _renamed(lambda name: name[:8] + "\0" + name[8:]),
    "an escape in a name": _renamed(lambda name: f"\x1b[2J{name}"),
    "half a pair of surrogates": _renamed(lambda name: f"\ud800{name}"),
    "a name of 100,000 letters": _renamed(lambda name: name + "x" * 100_000),
    "a path for a name": _renamed(lambda name: f"../../{name}"),
    "somebody else's name": _renamed(lambda name: f"double_blocks.0.{name}"),
    "metadata that is a list": _said([1]),
    "metadata with half a pair": _said({"modelspec.title": "a\ud800"}),
    "metadata of numbers": _said({"a": 1}),
    "metadata of tables": _said({"a": {"b": "c"}}),
}  # fmt: skip


# ---- tensors that make no adapter


def _with_tensors(
    source: Path, change: Callable[[dict[str, Tensor], random.Random], None], draw: random.Random
) -> bytes:
    tensors = load_file(source)
    change(tensors, draw)
    return pack(tensors, read_header(source).metadata)


def _value(number: float) -> Callable[[dict[str, Tensor], random.Random], None]:
    return lambda tensors, r: tensors[r.choice(_factors(tensors))].view(-1).__setitem__(-1, number)


def _put(make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor], random.Random], None]:
    def apply(tensors: dict[str, Tensor], draw: random.Random) -> None:
        name = draw.choice(_factors(tensors))
        tensors[name] = make(tensors[name])

    return apply


def _factors(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(name for name, tensor in tensors.items() if tensor.ndim == 2)


def _more(**named: Tensor) -> Callable[[dict[str, Tensor], random.Random], None]:
    return lambda tensors, _: tensors.update({name.replace("__", "."): tensor for name, tensor in named.items()})


TENSORS: Mapping[str, Callable[[dict[str, Tensor], random.Random], None]] = {
    "a value that is no number": _value(float("nan")),
    "an infinite value": _value(float("inf")),
    "minus infinity": _value(float("-inf")),
    "a factor of one axis": _put(lambda t: t.flatten()),
    "a factor of three axes": _put(lambda t: t[None]),
    "a factor of five axes": _put(lambda t: t[None, None, None]),
    "an empty factor": _put(lambda t: t[:0]),
    "a factor of 300,000 rows": _put(lambda t: torch.zeros(300_000, 1)),
    "no tensors": lambda tensors, _: tensors.clear(),
    "a tensor too many": _more(strange=torch.ones(2, 2)),
    "a whole layer beside": _more(unet__conv_in__weight=torch.ones(2, 2)),
    "a T5 beside": _more(lora_te3_encoder_block_0_layer_0_SelfAttention_q__lora_up__weight=torch.ones(2, 2)),
    "a checkpoint's layer beside": _more(model__diffusion_model__out__2__weight=torch.ones(2, 2)),
}
VALUES = {"a value that is no number", "an infinite value", "minus infinity"}


# ---- no safetensors at all


def _zip(data: bytes, _: random.Random) -> bytes:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("model.safetensors", bytes(20_000_000))
    return out.getvalue()


CONTENTS: Mapping[str, Change] = {
    "nothing": lambda d, r: b"",
    "one byte": lambda d, r: b"\x01",
    "a picture": lambda d, r: b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a zip that grows a thousandfold": _zip,
    "a page of an error": lambda d, r: b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of git": lambda d, r: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "noise": lambda d, r: r.randbytes(500),
    "a pickle": lambda d, r: b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueq\x00\x85q\x01Rq\x02.",
    "zeros": lambda d, r: bytes(4096),
}


def odd_places(folder: Path, good: Path) -> Iterator[Case]:
    """Things that are no plain file."""
    made = {name: folder / f"{name}.safetensors" for name in ("loop", "other", "dangling", "pipe", "dir", "device")}
    made["loop"].symlink_to(made["other"])
    made["other"].symlink_to(made["loop"])
    made["dangling"].symlink_to(folder / "nowhere")
    os.mkfifo(made["pipe"])
    made["dir"].mkdir()
    made["device"].symlink_to("/dev/zero")
    long = folder / ("n" * 300 + ".safetensors")
    yield from (Case(name, path) for name, path in made.items() if name != "other")
    yield Case("a name of 300 letters", long)
    yield Case("a NUL in the path", folder / "nul\0.safetensors")
    yield Case("below a file", good / "x.safetensors")
