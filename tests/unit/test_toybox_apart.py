"""The code that trained the toybox stays out of everybody's way."""

from __future__ import annotations

import re
from pathlib import Path

import tuner

ROOT = Path(tuner.__file__).parent


def test_nothing_outside_imports_what_made_the_models():
    users = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if "making" not in path.relative_to(ROOT).parts
        and re.search(r"toybox\.making|from \.+making|import making", path.read_text(encoding="utf-8"))
    ]
    assert users == []
