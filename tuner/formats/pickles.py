"""The one place that reads a pickle, for an explicit import alone: numbers and texts come out, and no code runs."""

from __future__ import annotations

import re
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .pickle_weight import MOST, heaviest

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 4 * 2**30
"""Files above this are refused before they are read."""

_ASKED = re.compile(
    r"(?:Unsupported global: GLOBAL|unsupported GLOBAL|Trying to (?:call|instantiate)|Tried to instantiate class) (\S+)"
)
"""Where torch's refusal names what a pickle wanted; the rest of it is advice to read the file unsafely."""
_HINT = "nothing was run; ask its maker for a .safetensors file"


def read_pickle(path: Path) -> Any:
    """What a file of `torch.save` holds, its tensors on the CPU.

    torch's weights-only reader builds tensors, containers, numbers and texts, and refuses every other name in the file
    before anything of that name is looked up.

    Raises: DataError where the file is broken, too large, or asks for anything else.
    """
    import pickle
    import struct

    import torch

    _check_size(path)
    # what torch's reader, its zip reader and its own interpreter of pickles let through for damaged files
    faults = (
        pickle.UnpicklingError, struct.error, zipfile.BadZipFile, ArithmeticError, AssertionError, AttributeError,
        BufferError, EOFError, ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file it guesses which pickle it is
            return torch.load(path, map_location="cpu", weights_only=True)
    except faults as error:
        if asked := _ASKED.search(str(error)):
            name = "".join(letter for letter in asked[1] if letter.isprintable())[:100]
            raise DataError(f"{path}: cannot be read without running what it asks for: {name}", _HINT) from error
        raise DataError(f"{path}: is broken, or no file of torch: {_first_line(error)}", _HINT) from error


def _first_line(error: Exception) -> str:
    """What is wrong, without torch's advice and colours."""
    lines = [line.strip() for line in str(error).splitlines()]
    advice = ("Weights only load failed", "(1)", "(2)", "Please file an issue", "Check the documentation")
    told = [line for line in lines if line and not line.startswith(advice)]
    text = told[0] if told else type(error).__name__
    return "".join(letter for letter in text if letter.isprintable())[:200]


def _check_size(path: Path) -> None:
    """Raises: DataError where there is no file, or it is larger than any that is meant, packed or not."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise DataError(f"{path}: is a folder, not a file")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise DataError(f"{path}: is compressed, which torch never does", _HINT)
            size = max(size, sum(entry.file_size for entry in entries))
        if size <= MAX_BYTES and heaviest(path) > MOST:
            raise DataError(f"{path}: holds values within values that unfold to more than {MOST:,}", _HINT)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if size > MAX_BYTES:
        raise DataError(f"{path}: holds {size:,} bytes; at most {MAX_BYTES:,} are read")
