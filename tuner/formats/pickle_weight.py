"""How much a pickle unfolds to, told from its bytes: a tuple of a tuple of itself can take years to hash."""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOST = 1_000_000
"""Values within one tuple, counted as often as they stand there."""
INDEX_BYTES = 64 * 2**20
"""Of a file's table of tensors, which is what is looked at."""

_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


def heaviest(path: Path) -> int:
    """The values in the largest tuple of a file's pickles. Raises: OSError, zipfile.BadZipFile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python decodes the texts of a damaged one, and warns of escapes that are none
        return max((_weigh(data) for data in _pickles(path)), default=0)


def _pickles(path: Path) -> Iterator[bytes]:
    """Those of a zip, or the five at the start of a file of old; each may go on with something else."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".pkl"):
                    with archive.open(entry) as file:
                        yield file.read(INDEX_BYTES)
        return
    with path.open("rb") as file:
        data = file.read(INDEX_BYTES)
    for _ in range(5):
        yield data
        end = _end(data)
        if end is None:
            return
        data = data[end:]


def _end(data: bytes) -> int | None:
    """Where the first pickle ends; None where it does not."""
    try:
        for opcode, _, at in pickletools.genops(data):
            if opcode.name == "STOP" and at is not None:
                return at + 1
    except ValueError:
        return None
    return None


def _weigh(data: bytes) -> int:
    """Play the stack with the size of each value in its place. What cannot be played, no reader can read further."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    most = 0
    try:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "MARK":
                marks.append(len(stack))
            elif name in _TUPLES or name == "TUPLE":
                at = marks.pop() if name == "TUPLE" else len(stack) - _TUPLES[name]
                size = 1 + sum(stack[at:])
                del stack[at:]
                stack.append(size)
                most = max(most, size)
            elif name in _PUTS:
                memo[int(argument)] = stack[-1]  # type: ignore[arg-type]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in _GETS:
                stack.append(memo[int(argument)])  # type: ignore[arg-type]
            elif name == "DUP":
                stack.append(stack[-1])
            else:
                _effect(stack, marks, opcode.stack_before, len(opcode.stack_after))
            if most > MOST:
                return most
    except (ValueError, IndexError, KeyError):
        return most
    return most


def _effect(stack: list[int], marks: list[int], before: Sequence[pickletools.StackObject], after: int) -> None:
    """Take what an opcode takes, and put plain values for what it leaves."""
    if pickletools.markobject in before:
        at = marks.pop() - before.index(pickletools.markobject)
    else:
        at = len(stack) - len(before)
    del stack[max(at, 0) :]
    stack.extend([1] * after)
