"""docs/formats.md is what the code says: a change of what is read or claimed shows there."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_made_from_the_code():
    """`make schema` writes it."""
    page = runpy.run_path(str(DOCS / "formats_page.py"))["page"]()
    assert (DOCS / "formats.md").read_text("utf-8") == page
    assert max(page.count(word) for word in ("| all |", "part (", "no (")) > 5
