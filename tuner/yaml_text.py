"""Reading YAML 1.2 as plain values with a place for each, and refusing whatever a recipe has no use for.

ruamel.yaml's parser turns the text into events. Values are built here rather than by its constructors, so that there
are no tags, aliases, merges, dates or base-60 numbers to be surprised by, and every problem is found in one pass.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from .strict import UNPRINTABLE
from .wording import quoted, show_key

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_VALUES = 2048
"""Keys, values and brackets in one file; a recipe has some fifty."""

Path: TypeAlias = tuple[str | int, ...]

FLOAT = re.compile(r"[-+]?(\.\d+|(0|[1-9]\d*)(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
INT = re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII)  # 010 is text: eight in YAML 1.1, ten in 1.2
CONSTANTS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
CONSTANTS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
MAX_DIGITS = 40
COMMENT = "holds a #, which begins a comment; put the text in quotes"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Line and column, both from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at a place; `path` is the key it belongs to."""

    place: Place
    path: Path
    text: str


@dataclass(slots=True)
class Document:
    """A file's values, where each of them stands, and what could not be taken."""

    value: Any = None
    """str, int, float, bool, None, or list and dict of them; a value with a fault is None."""
    keys: dict[Path, Place] = field(default_factory=dict)
    """Where the key of a mapping (or the item of a list) stands."""
    values: dict[Path, Place] = field(default_factory=dict)
    """Where the value stands."""
    faults: list[Fault] = field(default_factory=list)


class _StopReadingError(Exception):
    """The rest of the text cannot be read; the fault is recorded."""


def decode(data: bytes) -> str:
    """Bytes of a recipe as text. Raises: ValueError saying `line:column: why` where they are not UTF-8 text."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"1:1: larger than {MAX_BYTES // 1024} KB; this is no recipe")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = place_at(data[: error.start].decode("utf-8", "replace"), None)
        raise ValueError(f"{place}: byte {error.start} is not UTF-8 text; save the file as UTF-8") from None


def place_at(text: str, index: int | None) -> Place:
    """The place of the character number `index` (None: the end)."""
    before = text[:index]
    return Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def plain_value(word: str) -> Any:
    """What an unquoted word stands for (YAML 1.2 core schema, decimal numbers only).

    Raises: ValueError where it is a number that nothing here could mean.
    """
    if word in CONSTANTS:
        return CONSTANTS[word]
    if NOT_FINITE.fullmatch(word):
        raise ValueError(f"{word} is not a finite number; in text, put it in quotes")
    if INT.fullmatch(word):
        return int(_short(word))
    if FLOAT.fullmatch(word):
        number = float(_short(word))
        if not math.isfinite(number):
            raise ValueError(f"{word} is too large a number")
        return number
    return word


def _short(word: str) -> str:
    if len(word) > MAX_DIGITS:
        raise ValueError(f"a number of {len(word)} characters; in text, put it in quotes")
    return word


def parse(text: str, *, one_value: bool = False) -> Document:
    """Read one YAML document.

    Args:
        text: at most 256 KB.
        one_value: the text is the value of an override, where a comment or a document mark is a slip.
    """
    document = Document()
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        document.faults.append(Fault(Place(1, 1), (), f"larger than {MAX_BYTES // 1024} KB; this is no recipe"))
        return document
    if found := UNPRINTABLE.search(text):
        what = "is binary, not text" if found[0] == "\0" else f"holds the unprintable character U+{ord(found[0]):04X}"
        document.faults.append(Fault(place_at(text, found.start()), (), what))
        return document
    try:
        _Reader(text, document, one_value).read()
    except _StopReadingError:
        pass
    except MarkedYAMLError as error:
        unclosed = "end of stream" in str(error.problem)  # then the place that matters is where it was opened
        mark = (error.context_mark if unclosed else error.problem_mark) or error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        document.faults.append(Fault(place, (), _plain_words(error)))
    except (YAMLError, ValueError, ArithmeticError, LookupError, AssertionError, NotImplementedError):
        # The parser itself stumbles over some malformed escapes and directives.
        document.faults.append(Fault(Place(1, 1), (), "not valid YAML"))
    return document


class _Reader:
    """One pass over the events of one document."""

    def __init__(self, text: str, document: Document, one_value: bool) -> None:
        self.text, self.document, self.one_value = text, document, one_value
        self.events: Iterator[Event] = YAML(typ="safe", pure=True).parse(text)  # type: ignore[no-untyped-call]
        self.count = 0
        self.read_to = 0
        """Where the last scalar or bracket ends."""

    def read(self) -> None:
        next(self.events)  # the start of the stream
        start = next(self.events)
        if isinstance(start, StreamEndEvent):
            if self.one_value and self.text.strip():
                self.stop(start, (), COMMENT)
            return
        assert isinstance(start, DocumentStartEvent)
        if start.version or start.tags:
            self.stop(start, (), "a % directive; recipes are plain YAML 1.2, take the line away")
        if self.one_value and start.explicit:
            self.stop(start, (), "holds a document mark; put text in quotes")
        root = next(self.events)
        self.document.value = self.value(root, ())
        end = next(self.events)
        if self.one_value and self.text[self.read_to :].strip():
            self.stop(end, (), COMMENT)
        if not isinstance(next(self.events), StreamEndEvent):
            self.stop(end, (), "more than one document (a line of ---); one file is one recipe")

    def value(self, event: Any, path: Path) -> Any:
        self.document.values.setdefault(path, _place(event))
        self.document.keys.setdefault(path, _place(event))
        self.count += 1
        if self.count > MAX_VALUES:
            self.stop(event, path, f"more than {MAX_VALUES} values; this is no recipe")
        if isinstance(event, AliasEvent):
            alias = quoted("*" + str(event.anchor))
            return self.fault(event, path, f"alias {alias} is refused; write the value out, or put text in quotes")
        if event.anchor is not None:
            self.fault(event, path, f"anchor {quoted('&' + str(event.anchor))} is refused; put text in quotes")
        if event.tag is not None:
            self.fault(event, path, f"tag {quoted(_tag(event.tag))} is refused; put text in quotes")
        if isinstance(event, ScalarEvent):
            self.read_to = event.end_mark.index
            return self.scalar(event, path)
        if len(path) >= MAX_DEPTH:
            self.stop(event, path, f"nested deeper than {MAX_DEPTH} levels; this is no recipe")
        if isinstance(event, SequenceStartEvent):
            return self.sequence(path)
        assert isinstance(event, MappingStartEvent)
        return self.mapping(path)

    def scalar(self, event: ScalarEvent, path: Path) -> Any:
        if event.style is None:
            try:
                return plain_value(event.value)
            except ValueError as error:
                return self.fault(event, path, str(error))
        if found := UNPRINTABLE.search(event.value):
            return self.fault(event, path, f"holds the unprintable character U+{ord(found[0]):04X}")
        return event.value

    def sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self.value(event, (*path, len(items))))
        self.closed(event)
        return items

    def mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.key(event, path)
            child = (*path, key)
            if key in found:
                first = self.document.keys[child]
                self.fault(event, child, f"is given twice, first on line {first.line}; keep one")
                self.value(next(self.events), child)
                continue
            self.document.keys[child] = _place(event)
            value = next(self.events)
            found[key] = None  # so that a second one inside a fault is still seen
            found[key] = self.value(value, child)
        self.closed(event)
        return found

    def closed(self, event: Event) -> None:
        if event.end_mark.index > event.start_mark.index:  # a bracket; the end of a block has no width
            self.read_to = event.end_mark.index

    def key(self, event: Event, path: Path) -> str:
        if not isinstance(event, ScalarEvent):
            self.stop(event, path, "a key must be one word, not a list, mapping or alias")
        if event.anchor is not None or event.tag is not None:
            self.stop(event, path, "a key with an anchor or tag is refused")
        if event.style is None and event.value == "<<":
            self.stop(event, path, "merge keys (<<) are refused; write the values out")
        word = self.scalar(event, path)
        if not isinstance(word, str):
            named = f"the key {show_key(event.value)} is not text; put it in quotes"
            self.stop(event, path, named if event.value else "a key is missing before the colon")
        return word

    def fault(self, event: Event, path: Path, text: str) -> None:
        self.document.faults.append(Fault(_place(event), path, text))

    def stop(self, event: Event, path: Path, text: str) -> NoReturn:
        self.fault(event, path, text)
        raise _StopReadingError


def _place(event: Event) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _tag(tag: object) -> str:
    return str(tag).replace("tag:yaml.org,2002:", "!!")


PLAIN_WORDS = (
    ("node content, but found '<stream end>'", "a bracket is opened and never closed"),
    (
        "mapping values are not allowed",
        "a second colon, or wrong indentation; put text that holds ': ' in quotes",
    ),
    ("cannot start any token", "text that begins with this character must be in quotes (and a tab cannot indent)"),
    ("could not find expected ':'", "this line has no colon after its key"),
    ("expected <block end>", "this line does not line up with the ones above it, or a list and keys are mixed"),
    ("expected '<document start>'", "this line does not line up with the ones above it"),
    ("block sequence entries are not allowed", "a list item cannot stand here; begin it on a line of its own"),
    ("unexpected end of stream", "a quote is opened and never closed"),
    ("unknown escape character", "a backslash in double quotes; use single quotes"),
    ("unexpected document separator", "a quote is opened and never closed"),
    ("expected ',' or ']'", "a comma or the closing ] is missing"),
    ("expected ',' or '}'", "a comma or the closing } is missing"),
    ("hexdecimal", "a backslash in double quotes; use single quotes"),
    ("tag", "a tag (!) is refused; put text in quotes"),
    ("alias", "an alias (*) or anchor (&) is refused; put text in quotes"),
    ("anchor", "an alias (*) or anchor (&) is refused; put text in quotes"),
    ("directive", "a % directive; recipes are plain YAML 1.2, take the line away"),
)
"""What the parser says, and what that means to the one who wrote the file."""


def _plain_words(error: MarkedYAMLError) -> str:
    said = " ".join(str(part) for part in (error.problem, error.context) if part)
    for theirs, ours in PLAIN_WORDS:
        if theirs in said:
            return ours
    return "not valid YAML" + (f" ({' '.join(str(error.problem).split())[:120]})" if error.problem else "")
