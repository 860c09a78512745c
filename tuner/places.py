"""Text of a recipe that may name a file or folder."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator

MOST_BYTES, MOST_OF_A_NAME = 4096, 255
"""What Linux takes for a path and for one name of it; no system takes longer names."""


def nameable(text: str) -> str:
    """Raises: ValueError for what no file can be called: asking the system for it would be a fault of its own."""
    if len(os.fsencode(text)) > MOST_BYTES:
        raise ValueError(f"is longer than a path can be ({MOST_BYTES:,} bytes)")
    if any(len(os.fsencode(name)) > MOST_OF_A_NAME for name in text.split("/")):
        raise ValueError(f"holds a name that is longer than {MOST_OF_A_NAME} bytes")
    if text.startswith("~") and os.path.expanduser(text).startswith("~"):
        raise ValueError(f"there is no user {text.split('/')[0][1:]} on this machine")
    return text


Place = Annotated[str, AfterValidator(nameable)]
"""A path, or a name on the Hub; `~` is the home folder."""
