"""What makes two copies of a component the same: configuration and bytes, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError

VOLATILE = ("_diffusers_version", "_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Keys of a config.json that do not change what the component computes."""


def digest(config: Mapping[str, Any], files: Sequence[Path], extra: str = "") -> str:
    """sha256 over a configuration, the content of files in their order, and a word of one's own.

    Raises: DataError where a file cannot be read.
    """
    tree = {key: value for key, value in config.items() if key not in VOLATILE}
    parts = [json.dumps(tree, sort_keys=True), *(file_sha256(path) for path in files), extra]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's content."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}", "download the whole model again"
        ) from error
