"""What may be done to a caption: each is a function from the old one to the new one that can say what it does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..data import captions
from ..errors import UsageError
from ..wording import quoted

_NO_SPACE_BEFORE = tuple(",.;:!?)")


@dataclass(frozen=True, slots=True)
class Prefix:
    """Put before every caption, with a space between."""

    text: str

    def __call__(self, caption: str) -> str:
        return f"{self.text} {caption}"

    def __str__(self) -> str:
        return f"put {quoted(self.text)} before"


@dataclass(frozen=True, slots=True)
class Suffix:
    """Put behind every caption, with a space between unless it begins with a comma or full stop."""

    text: str

    def __call__(self, caption: str) -> str:
        return caption + ("" if self.text.startswith(_NO_SPACE_BEFORE) else " ") + self.text

    def __str__(self) -> str:
        return f"put {quoted(self.text)} behind"


@dataclass(frozen=True, slots=True)
class Replace:
    """Every place that reads `find`, letter by letter, reads `put` afterwards."""

    find: str
    put: str
    any_case: bool = False
    """Upper and lower case count as one."""

    def __post_init__(self) -> None:
        if not self.find:
            raise UsageError("nothing to look for", "say which words to replace")

    def __call__(self, caption: str) -> str:
        if not self.any_case:
            return caption.replace(self.find, self.put)
        return re.sub(re.escape(self.find), lambda _: self.put, caption, flags=re.IGNORECASE)

    def __str__(self) -> str:
        return f"replace {quoted(self.find)} by {quoted(self.put)}"


@dataclass(frozen=True, slots=True)
class Trigger:
    """Put the word in front of every caption that does not hold it as a word, as `data.trigger` would."""

    word: str

    def __post_init__(self) -> None:
        if not self.word.strip():
            raise UsageError("the trigger is empty", "give the word, such as `tok`")

    def __call__(self, caption: str) -> str:
        return captions.with_trigger(caption, self.word.strip())

    def __str__(self) -> str:
        return f"insert {quoted(self.word)}"


@dataclass(frozen=True, slots=True)
class Whole:
    """The whole caption."""

    text: str

    def __call__(self, caption: str) -> str:
        return self.text

    def __str__(self) -> str:
        return f"write {quoted(self.text)}"


Edit = Prefix | Suffix | Replace | Trigger | Whole
