"""Pickles that are broken, or would run something, for `tuner import` and for everything that refuses them unread."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from malformed import Case

GOOD = {
    "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(2, 8),
    "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.ones(8, 2),
}


class _Call:
    """An object that a pickle makes by calling something."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.how = (function, given)

    def __reduce__(self) -> Any:
        return self.how


def _names(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls `module.name(argument)`, written by hand so that nothing is imported here."""
    text = argument.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(text)) + text + b"\x85R."


CALLS = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "open"), ("builtins", "getattr"), ("builtins", "__import__"), ("__builtin__", "eval"),
    ("subprocess", "Popen"), ("subprocess", "check_output"), ("importlib", "import_module"), ("runpy", "run_path"),
    ("webbrowser", "open"), ("pty", "spawn"), ("shutil", "rmtree"), ("pathlib", "Path.unlink"), ("os", "unlink"),
    ("torch", "load"), ("torch.hub", "load"), ("torch.storage", "_load_from_bytes"), ("torch.jit", "load"),
    ("torch._dynamo", "compile"), ("torch.serialization", "load"), ("numpy", "load"), ("numpy.testing", "rundocs"),
    ("numpy.core.multiarray", "scalar"), ("pickle", "loads"), ("_pickle", "loads"), ("marshal", "loads"),
    ("types", "FunctionType"), ("functools", "partial"), ("operator", "attrgetter"), ("code", "interact"),
    ("ctypes", "CDLL"), ("socket", "create_connection"), ("urllib.request", "urlopen"), ("timeit", "timeit"),
    ("tuner.cli", "call"), ("collections", "namedtuple"), ("asyncio", "run"), ("threading", "Thread"),
]  # fmt: skip
"""What people have put into such files, and a few more."""


def _zipped(body: bytes, **more: bytes) -> bytes:
    """As `torch.save` packs a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        target.writestr("archive/data.pkl", body)
        target.writestr("archive/version", b"3\n")
        for name, content in more.items():
            target.writestr(f"archive/{name}", content)
    return out.getvalue()


def _saved(tree: Any, *, old: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(tree, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


def _bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        target.writestr("archive/data.pkl", bytes(50_000_000))
        target.writestr("archive/data/0", bytes(50_000_000))
    return out.getvalue()


def _claims(size: int) -> bytes:
    """A zip whose one entry claims to hold more than it does."""
    data = bytearray(_zipped(b"\x80\x02}."))
    at = data.rfind(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<II", size, size)
    return bytes(data)


def _folded() -> bytes:
    """A table whose key is a pair of a pair of a pair ... of itself: to look it up takes 2 to the 60 steps."""
    body = b"\x80\x02}K\x01]K\x01K\x01\x86q\x00a" + b"h\x00h\x00\x86q\x00a" * 60 + b"sh\x00K\x01s."
    return _zipped(body, byteorder=b"little")


FIXED: Mapping[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a dot": lambda: b".",
    "a proto alone": lambda: b"\x80\x02",
    "protocol 255": lambda: b"\x80\xff}.",
    "a picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(64),
    "lists 1,000,000 deep": lambda: b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "a text of 4 GB, not there": lambda: b"\x80\x02X\xff\xff\xff\xff.",
    "bytes of 2 to the 63, not there": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b".",
    "a number of 2 GB, not there": lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "a negative length": lambda: b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
    "a memo that is not there": lambda: b"\x80\x02h\x07.",
    "a mark that is not there": lambda: b"\x80\x02t.",
    "an extension": lambda: b"\x80\x02\x82\x01.",
    "a persistent id": lambda: b"\x80\x02X\x01\x00\x00\x00aQ.",
    "a zip bomb": _bomb,
    "a key of 2 to the 60 values": _folded,
    "a zip that claims 3 GB": lambda: _claims(3 * 2**30),
    "a zip without a pickle": lambda: _zipped(b""),
    "a zip with another zip": lambda: _zipped(_zipped(b"\x80\x02}.")),
    "a set": lambda: pickle.dumps({1, 2}),
    "a class": lambda: pickle.dumps(Path),
    "a list": lambda: _saved([torch.ones(2)]),
    "an empty table": lambda: _saved({}),
    "numbers by name": lambda: _saved({"a": 1}),
    "a table of tables": lambda: _saved({"a": {"b": {"c": torch.ones(1)}}}),
    "whole numbers": lambda: _saved({name: value.long() for name, value in GOOD.items()}),
    "not finite": lambda: _saved({name: value * float("nan") for name, value in GOOD.items()}),
    "one factor": lambda: _saved(dict(list(GOOD.items())[:1])),
    "sparse": lambda: _saved({name: value.to_sparse() for name, value in GOOD.items()}),
    "stretched": lambda: _saved({name: torch.ones(1).expand(value.shape) for name, value in GOOD.items()}),
    "a model": lambda: _saved({"state_dict": {"model.diffusion_model.out.2.weight": torch.ones(2, 2)}}),
    "two embeddings": lambda: _saved({"string_to_param": {"*": torch.ones(1, 768), "+": torch.ones(1, 768)}}),
    "an embedding of nothing": lambda: _saved({"string_to_param": {}}),
    "an embedding of SDXL": lambda: _saved({"string_to_param": {"*": torch.ones(1, 2048)}}),
    "a hypernetwork of nothing": lambda: _saved({768: ()}),
    "a call within a good file": lambda: _saved(GOOD | {"x": _Call(Path.touch, Path("ran"))}),
    "a call within an old file": lambda: _saved(GOOD | {"x": _Call(Path.touch, Path("ran"))}, old=True),
}  # fmt: skip


def pickle_cases(folder: Path, count: int) -> Iterator[Case]:
    """`count` broken pickles: first every kind, then good files with bytes changed or cut off."""
    endings = (".pt", ".bin", ".ckpt", ".pth", ".pkl")
    calls = {f"{m}.{n} {how}": (m, n, how) for m, n in CALLS for how in ("bare", "zipped")}
    whole = {old: _saved(GOOD, old=old) for old in (False, True)}
    for number in range(count):
        draw = random.Random(number)
        if number < len(FIXED):
            name, make = list(FIXED.items())[number]
            content = make()
        elif number < len(FIXED) + len(calls):
            name, (module, attribute, how) = list(calls.items())[number - len(FIXED)]
            body = _names(module, attribute, "touch ran")
            content = body if how == "bare" else _zipped(body)
        else:
            data = whole[number % 2 == 0]
            name, content = "cut off", data[: draw.randrange(1, len(data) - 80)]
        path = folder / f"{number}{endings[number % len(endings)]}"
        path.write_bytes(content)
        yield Case(f"{number} {name}", path)
