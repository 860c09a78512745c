"""Toybox models that tests draw with."""

from __future__ import annotations

import pytest

from tuner import toybox


def require(backbone: str) -> None:
    """Skip where the toybox model of a backbone is not in the package, as before it was trained."""
    if not toybox.folder(backbone).is_dir():
        pytest.skip(f"the package has no toybox model of {backbone} yet: {toybox.folder(backbone)} is not there")
