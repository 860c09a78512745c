"""What must never be written down: access tokens."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{10,}")


def redact(text: str) -> str:
    """`text` with every Hugging Face token replaced by `hf_***`."""
    return _TOKEN.sub("hf_***", text)
