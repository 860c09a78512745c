"""What a page may load and run: only what this server sends, and of scripts in the page only those that it wrote."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

INERT = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""Pictures, files and short answers: whatever they hold, nothing in them runs."""
LOGIN = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'self'; frame-ancestors 'none'"
ASSET = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; frame-ancestors 'none'"

_INLINE = re.compile(r"<script(?:\s+data-[\w-]+)?\s*>(.*?)</script>", re.DOTALL)
_HOLE = re.compile(r"\{\{.*?\}\}")


def page(scripts: Iterable[str]) -> str:
    """The policy of Gradio's page.

    Gradio compiles its own templates and handlers in the browser, so `unsafe-eval` stays; what it does not allow is a
    script that stands in the page, in an attribute or at another address. Its components set styles in attributes.

    Args:
        scripts: the texts of the inline scripts that may run.
    """
    allowed = " ".join(f"'sha256-{digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src 'self' 'unsafe-eval' {allowed}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; "
        "base-uri 'self'; frame-ancestors 'none'"
    )


def digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def inline(html: str) -> list[str]:
    """The texts of the inline scripts of a page."""
    return _INLINE.findall(html)


class OwnScripts:
    """Which of a page's inline scripts the server wrote.

    Args:
        template: the Jinja template that the page was made from. Its values come out as JSON without `<`, so what
            stands in a hole of it cannot end the script.
        head: what we ourselves put into the page's head, which Gradio's script adds to it later.
    """

    def __init__(self, template: str, head: str) -> None:
        self.patterns = [
            re.compile(r"[^<>]*?".join(re.escape(piece) for piece in _HOLE.split(text)), re.DOTALL)
            for text in inline(template)
        ]
        self.head = inline(head)

    def of(self, html: str) -> list[str]:
        """Those of this page that are ours, and the head's."""
        found = [text for text in inline(html) if any(pattern.fullmatch(text) for pattern in self.patterns)]
        return [*found, *self.head]
