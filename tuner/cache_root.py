"""Where everything that can be made again is kept: `TUNER_CACHE`, else the platform's user cache directory."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The cache directory; it need not exist yet."""
    given = os.environ.get("TUNER_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("tuner", appauthor=False)
