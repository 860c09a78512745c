"""The pack file: records of named float32 arrays in one safetensors file, each record with its own sha256.

An array that loses nothing by it, such as one that was computed in 16 bit, is stored in 16 bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.float32]]

FORMAT = "tuner-cache-1"
"""Changes whenever old packs must not be read any more."""
KEY = re.compile(r"[0-9A-Za-z_.-]{1,128}")
"""What a record's key may look like; a slash ends the key in a tensor's name."""
PACK_NAME = re.compile(r"\d{19}-[0-9a-f]{16}\.safetensors")
"""Time of writing in nanoseconds, then a hash: sorted by name is sorted by age, and no pack ever replaces another."""
_MAX_HEADER_BYTES = 100_000_000
_ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
"""By the type that an array is stored in, in safetensors' words."""


class Damaged(Exception):
    """A pack or record that cannot be used, and why."""


class Foreign(Damaged):
    """A pack in another format than this version's."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one array lies in its file."""

    name: str
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the start of the file."""
    end: int
    kind: str = "F32"
    """The type that it is stored in."""

    @property
    def facts(self) -> tuple[Any, ...]:
        """What the fingerprint holds of it besides its bytes."""
        return (self.name, self.shape) if self.kind == "F32" else (self.name, self.shape, self.kind)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a pack, as its header describes it."""

    places: tuple[Place, ...]
    sha256: str


@dataclass(slots=True)
class Pack:
    """A pack file whose header was read."""

    path: Path
    kind: str
    bytes: int
    records: dict[str, Record]
    bad: dict[str, str] = field(default_factory=dict)
    """Records that the header alone shows to be unusable, and why."""


def build(kind: str, records: Mapping[str, Arrays]) -> tuple[str, bytes]:
    """Name and content of a pack.

    Raises: TypeError or ValueError for a key or an array that a pack cannot hold.
    """
    metadata: dict[str, str] = {"format": FORMAT, "kind": kind}
    header: dict[str, Any] = {"__metadata__": metadata}
    chunks: list[memoryview] = []
    offset = 0
    for key, arrays in records.items():
        if not KEY.fullmatch(key) or not arrays:
            raise ValueError(f"record {key!r} has no arrays or a key that is not plain")
        places = []
        mine = []
        for name, array in sorted(arrays.items()):
            stored, data = _as_bytes(key, name, array)
            header[f"{key}/{name}"] = {
                "dtype": stored,
                "shape": array.shape,
                "data_offsets": (offset, offset + len(data)),
            }
            places.append(Place(name, array.shape, offset, offset + len(data), stored).facts)
            mine.append(data)
            offset += len(data)
        metadata[f"sha256/{key}"] = fingerprint(kind, key, places, mine)
        chunks += mine
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps the arrays aligned
    name = f"{time.time_ns():019d}-{hashlib.sha256(text).hexdigest()[:16]}.safetensors"
    return name, b"".join((len(text).to_bytes(8, "little"), text, *chunks))


def _as_bytes(key: str, name: str, array: NDArray[np.float32]) -> tuple[str, memoryview]:
    """The type that an array is stored in, and its bytes."""
    import numpy as np

    if array.dtype != np.float32 or array.size == 0:
        raise TypeError(f"record {key}: {name} must be float32 and not empty, not {array.dtype} of shape {array.shape}")
    little = np.ascontiguousarray(array, "<f4")
    stored, values = "F32", little
    bits = little.view("<u4")
    if not (bits & 0xFFFF).any():
        stored, values = "BF16", (bits >> 16).astype("<u2")
    else:
        with np.errstate(over="ignore", under="ignore"):
            half = little.astype("<f2")
        if (half.astype("<f4").view("<u4") == bits).all():
            stored, values = "F16", half
    return stored, memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def fingerprint(kind: str, key: str, places: list[tuple[Any, ...]], data: list[memoryview]) -> str:
    """sha256 over the kind, the key, and every array's name, shape, type and bytes, in the order of names."""
    digest = hashlib.sha256(json.dumps([FORMAT, kind, key, places]).encode() + b"\0")
    for chunk in data:
        digest.update(chunk)
    return digest.hexdigest()


def read(path: Path, kind: str) -> Pack:
    """The header of a pack that shall hold records of `kind`.

    Raises: Damaged where it cannot be understood; OSError.
    """
    with path.open("rb", buffering=0) as file:
        start = file.read(4096)
        size = file.seek(0, 2)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise Damaged("it is cut short or its header's length is wrong")
        if 8 + length > len(start):
            file.seek(len(start))
            start += _exactly(file.read, 8 + length - len(start))
    try:
        header = json.loads(start[8 : 8 + length])
        metadata = header.pop("__metadata__")
        made_by, found_kind = metadata["format"], metadata["kind"]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise Damaged("its header is not readable") from error
    if made_by != FORMAT:
        raise Foreign(f"it is in the format {str(made_by)[:40]!r}, not {FORMAT!r}")
    if found_kind != kind:
        raise Damaged(f"it holds {str(found_kind)[:40]!r}")
    pack = Pack(path, kind, size, {})
    _fill(pack, header, metadata, 8 + length)
    return pack


def _exactly(read_some: Any, count: int) -> bytes:
    parts = []
    while count > 0:
        part = read_some(count)
        if not part:
            raise Damaged("it is cut short")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _fill(pack: Pack, header: Mapping[str, Any], metadata: Mapping[str, Any], data_start: int) -> None:
    """Sort the tensors of a header into records; what is wrong with one leaves the others alone."""
    places: dict[str, list[Place]] = {}
    for full, entry in header.items():
        key, _, name = full.partition("/")
        try:
            places.setdefault(key, []).append(_place(name, entry, data_start, pack.bytes))
        except Damaged as damage:
            pack.bad[key] = str(damage)
    for key, found in places.items():
        sha256 = metadata.get(f"sha256/{key}")
        if not isinstance(sha256, str):
            pack.bad.setdefault(key, "its sha256 is missing")
        elif key not in pack.bad:
            pack.records[key] = Record(tuple(sorted(found, key=lambda place: place.name)), sha256)


def _place(name: str, entry: Any, data_start: int, size: int) -> Place:
    try:
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        if (
            entry["dtype"] not in _ITEM_BYTES
            or not all(type(n) is int and n > 0 for n in (*shape, end))
            or type(start) is not int
        ):
            raise Damaged("its description is wrong")
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged("its description is wrong") from error
    count = _ITEM_BYTES[entry["dtype"]]
    for n in shape:
        count *= n
    if start < 0 or end - start != count:
        raise Damaged("its description is wrong")
    if data_start + end > size:
        raise Damaged("it is cut short")
    return Place(name, shape, data_start + start, data_start + end, entry["dtype"])


def check(pack: Pack, key: str, buffer: Any) -> None:
    """Compare a record's sha256 with the bytes of its file.

    Raises: Damaged.
    """
    if key in pack.bad:
        raise Damaged(pack.bad[key])
    record = pack.records[key]
    with memoryview(buffer) as whole:
        chunks = [whole[place.start : place.end] for place in record.places]
        found = fingerprint(pack.kind, key, [place.facts for place in record.places], chunks)
        for chunk in chunks:
            chunk.release()
    if found != record.sha256:
        raise Damaged("its sha256 does not match")


def views(record: Record, buffer: Any) -> dict[str, NDArray[np.float32]]:
    """The arrays of a record, read-only: views into its file, copies of those that are stored in 16 bit."""
    return {place.name: _view(place, buffer).reshape(place.shape) for place in record.places}


def _view(place: Place, buffer: Any) -> NDArray[np.float32]:
    from numpy import frombuffer

    size = place.end - place.start
    if place.kind == "F32":
        return frombuffer(buffer, "<f4", size >> 2, place.start)
    if place.kind == "F16":
        wide = frombuffer(buffer, "<f2", size >> 1, place.start).astype("<f4")
    else:
        wide = (frombuffer(buffer, "<u2", size >> 1, place.start).astype("<u4") << 16).view("<f4")
    wide.flags.writeable = False
    return wide


def scan(folder: Path) -> Iterator[str]:
    """Names of the pack files in a folder, newest last; none where there is no folder. Raises: OSError."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found if PACK_NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return
    yield from sorted(names)
