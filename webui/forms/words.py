"""A recipe's own words for what it teaches, and those that stand in for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .methods import Method

TOKEN = re.compile(r"<[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?>")


def token(trigger: str) -> str | None:
    """The new word that a trigger becomes, such as `<my-dog>`; None where nothing is left of it."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", trigger.strip().lower())[:40].strip("-._")
    made = f"<{plain}>"
    return made if TOKEN.fullmatch(made) else None


class Words:
    """The recipe's own words, and what stands in for them."""

    def __init__(self, chosen: Method, trigger: str, subject: str) -> None:
        self.chosen = chosen
        self.trigger = (token(trigger) or "") if chosen.token else " ".join(trigger.split())
        self.subject = " ".join(subject.split())
        own = re.escape(chosen.trigger)
        kind = re.escape(chosen.subject) if chosen.subject else r"(?!)"
        edge = r"(?<![\w<-]){}(?![\w>-])"
        self._trigger = re.compile(own if chosen.token else edge.format(own))
        self._class = re.compile(edge.format(kind))
        self._any = re.compile(
            f"(?P<own>{self._trigger.pattern})(?P<both> {self._class.pattern})?"
            f"|(?P<article>(?<!\\w)an? )(?P<kind>{self._class.pattern})"
            f"|(?P<bare>{self._class.pattern})"
        )

    def has_trigger(self, text: str) -> bool:
        return self._trigger.search(text) is not None

    def has_class(self, text: str) -> bool:
        return self._class.search(text) is not None

    def put_in(self, text: str) -> str:
        return self._any.sub(self._stand_in, text)

    def _stand_in(self, found: re.Match[str]) -> str:
        if found["own"]:
            both = f" {self.subject}" if found["both"] and self.subject else ""
            return self.trigger + both
        if not self.subject:
            return found[0]
        if found["article"]:
            return f"{'an' if self.subject[0].lower() in 'aeiou' else 'a'} {self.subject}"
        return self.subject
