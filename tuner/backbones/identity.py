"""What makes two copies of a component the same: configuration and bytes, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

VOLATILE = ("_diffusers_version", "_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Keys of a config.json that do not change what the component computes."""


def digest(config: Mapping[str, Any], files: Sequence[Path], extra: str = "") -> str:
    """sha256 over a configuration, the content of files in their order, and a word of one's own.

    Raises: StorageError where a file cannot be read.
    """
    from ..data.cache import Cache
    from ..data.identity import file_sha256

    cache = Cache()
    tree = {key: value for key, value in config.items() if key not in VOLATILE}
    parts = [json.dumps(tree, sort_keys=True), *(file_sha256(path, cache) for path in files), extra]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
