"""safetensors files: the same content is the same bytes, and a header is believed only where the file agrees."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save_file

from tuner.errors import DataError
from tuner.formats.container import MAX_HEADER_BYTES, pack, payload, read_header

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__" and n.isprintable()),
    st.tuples(SHAPES, DTYPES),
    min_size=1,
    max_size=6,
)
METADATA = st.dictionaries(st.text(min_size=1, max_size=8).filter(str.isprintable), st.text(max_size=20), max_size=5)


def filled(layout):
    return {
        name: torch.arange(int(torch.tensor(shape).prod()) if shape else 1).reshape(shape).to(dtype)
        for name, (shape, dtype) in layout.items()
    }


@settings(max_examples=60, deadline=None)
@given(TENSORS, METADATA)
def test_the_library_reads_what_is_packed(tmp_path_factory, layout, metadata):
    tensors = filled(layout)
    data = pack(tensors, metadata)
    back = load(data)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())
    path = tmp_path_factory.mktemp("pack") / "x.safetensors"
    path.write_bytes(data)
    with safe_open(path, framework="pt") as file:
        assert (file.metadata() or {}) == metadata
    header = read_header(path)
    assert header.metadata == metadata
    assert {name: entry.shape for name, entry in header.tensors.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }
    assert data.endswith(payload(tensors))


@settings(max_examples=30, deadline=None)
@given(TENSORS, METADATA)
def test_bytes_do_not_depend_on_the_order_of_names(layout, metadata):
    tensors = filled(layout)
    turned = dict(reversed(tensors.items())), dict(reversed(metadata.items()))
    assert pack(tensors, metadata) == pack(*turned)


def test_bytes_do_not_depend_on_the_process():
    program = (
        "import hashlib, torch; from tuner.formats.container import pack;"
        "print(hashlib.sha256(pack({'b': torch.ones(2), 'a': torch.zeros(3, dtype=torch.float16)}, {str(i): 'x' for i in range(20)})).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    own = pack({"a": torch.zeros(3, dtype=torch.float16), "b": torch.ones(2)}, {str(i): "x" for i in range(20)})
    assert found == {hashlib.sha256(own).hexdigest() + "\n"}


def test_strided_and_shared_tensors_are_written_as_they_read(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"turned": whole.T, "part": whole[1], "whole": whole}
    back = load(pack(tensors, {}))
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_the_library_writes_what_is_read(tmp_path):
    save_file({"a": torch.ones(2, 3), "b": torch.zeros((), dtype=torch.int64)}, tmp_path / "x.safetensors", {"k": "v"})
    header = read_header(tmp_path / "x.safetensors")
    assert header.metadata == {"k": "v"}
    assert header.tensors["a"].shape == (2, 3)
    assert header.tensors["b"].dtype == "I64"


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
WRONG = {
    "empty": (b"", "cut off"),
    "short": (b"\1\2", "cut off"),
    "claims more than there is": (struct.pack("<Q", 100) + b"{}", "cut off"),
    "no JSON": (file_of(b"{nonsense"), "not valid JSON"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "not valid JSON"),
    "deep": (file_of(b"[" * 100_000), "not valid JSON"),
    "a name twice": (file_of(b'{"a": 1, "a": 2}'), "twice"),
    "a list": (file_of([]), "not a table"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "not a table of texts"),
    "a tensor without description": (file_of({"a": 3}), "no description"),
    "an unknown type": (file_of({"a": ONE | {"dtype": "F99"}}, b"\0" * 4), "unknown type"),
    "no type": (file_of({"a": ONE | {"dtype": []}}, b"\0" * 4), "unknown type"),
    "a negative shape": (file_of({"a": ONE | {"shape": [-1]}}, b"\0" * 4), "no valid shape"),
    "a huge shape": (file_of({"a": ONE | {"shape": [2**60]}}, b"\0" * 4), "no valid shape"),
    "a shape of truth": (file_of({"a": ONE | {"shape": [True]}}, b"\0" * 4), "no valid shape"),
    "three offsets": (file_of({"a": ONE | {"data_offsets": [0, 4, 4]}}, b"\0" * 4), "no valid shape"),
    "cut off data": (file_of({"a": ONE}, b"\0" * 3), "3 bytes|describes"),
    "more data": (file_of({"a": ONE}, b"\0" * 5), "describes"),
    "an overlap": (file_of({"a": ONE, "b": ONE}, b"\0" * 4), "does not lie"),
    "a hole": (file_of({"a": ONE | {"data_offsets": [4, 8]}}, b"\0" * 8), "does not lie"),
    "a wrong length": (file_of({"a": ONE | {"shape": [2]}}, b"\0" * 4), "does not lie"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_header_that_cannot_be_is_refused_by_name(tmp_path, case):
    content, reason = WRONG[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_header(path)
    assert str(path) in caught.value.message


def test_a_huge_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(DataError, match="at most"):
        read_header(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_header(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_header(tmp_path / "absent")
