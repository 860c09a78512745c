"""Captions from metadata.jsonl and metadata.csv; every row that cannot be used is named by its line."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import captions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMES = ("metadata.jsonl", "metadata.csv")
"""Files that hold captions, in the layout of Hugging Face's image folders."""
KEY = "file_name"
"""The key or column that names the picture, relative to the folder of the metadata file."""
MAX_ROW_BYTES = 2**20
_MAX_ALTERNATIVES = 100


@dataclass(frozen=True, slots=True)
class Row:
    line: int
    by_column: Mapping[str, tuple[str, ...]]
    """Captions by the column or key that they are from."""

    @property
    def captions(self) -> tuple[str, ...]:
        """Those of the first column that was asked for."""
        return next(iter(self.by_column.values()), ())


@dataclass(slots=True)
class Table:
    """The rows of one metadata file."""

    name: str
    rows: dict[str, Row] = field(default_factory=dict)
    """By the picture's path relative to the file's folder, NFC, with / between folders."""
    problems: list[tuple[int, str]] = field(default_factory=list)
    """(line, what is wrong) of each row that is not used."""
    columns: dict[str, None] = field(default_factory=dict)
    """Every key seen, in order."""


def read(data: bytes, name: str, *columns: str) -> Table:
    """The captions of `metadata.jsonl` or `metadata.csv` in these columns.

    Raises: DataError if no row can be read at all (a .csv that is not UTF-8, or has no file_name).
    """
    table = Table(name)
    for line, row in _csv_rows(data, table) if name.lower().endswith(".csv") else json_rows(data, table):
        table.columns.update(dict.fromkeys(row))
        try:
            path = relative_path(row)
            if path in table.rows:
                first = f"the first is line {table.rows[path].line}"
                raise BadRowError(f"a second row for {path} ({first}); several captions go in a list")
            table.rows[path] = Row(line, {column: captions_of(row.get(column), column) for column in columns})
        except BadRowError as error:
            table.problems.append((line, str(error)))
    return table


def normal(path: str) -> str:
    """A relative path as `Table.rows` spells it."""
    return unicodedata.normalize("NFC", path)


class BadRowError(ValueError):
    """What is wrong with one row."""


def relative_path(row: Mapping[str, Any], key: str = KEY) -> str:
    """The path under a row's `key`, NFC. Raises: BadRowError where there is none, or it leads out of the folder."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"no {key}; there is {', '.join(map(repr, row)) or 'nothing'}")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or value[1:2] == ":" or value.startswith("\\"):
        raise BadRowError(f"{key} {value!r} leads out of the folder; it must be relative and without ..")
    return normal(str(path))


def captions_of(value: Any, column: str) -> tuple[str, ...]:
    """The captions that a row's value holds, as written. Raises: BadRowError."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        if len(value) > _MAX_ALTERNATIVES:
            raise BadRowError(f"{column!r} holds {len(value)} captions; the limit is {_MAX_ALTERNATIVES}")
        return tuple(value)
    raise BadRowError(f"{column!r} is a {type(value).__name__}; it must be text or a list of texts")


def json_rows(data: bytes, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of each line that holds an object; the others join `table.problems`."""
    # Lines end with \n alone: U+2028 and its like may stand inside a JSON string.
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            if len(raw) > MAX_ROW_BYTES:
                raise BadRowError(f"{len(raw):,} bytes; the limit of a row is {MAX_ROW_BYTES:,}")
            row = json.loads(captions.decode(raw, "the row"), object_pairs_hook=_no_repeats)
            if not isinstance(row, dict):
                raise BadRowError('not a JSON object; a row looks like {"file_name": "a.jpg", "text": "a dog"}')
        except json.JSONDecodeError as error:
            table.problems.append((number, f"not JSON: {error.msg} (column {error.colno})"))
        except DataError as error:
            table.problems.append((number, error.message.removeprefix("the row: ")))
        except RecursionError:
            table.problems.append((number, "not a row: nested too deeply"))
        except ValueError as error:  # BadRowError, and numbers of thousands of digits
            table.problems.append((number, str(error)))
        else:
            yield number, row


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadRowError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return row


def _csv_rows(data: bytes, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(captions.decode(data, table.name), newline=""), strict=True)
    columns: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            table.problems.append((line, f"not CSV: {error}"))
            continue
        if values is None:
            break
        if not columns:
            columns = [value.strip() for value in values]
            if KEY not in columns or len(set(columns)) < len(columns):
                raise DataError(
                    f"{table.name}:1: the first line must name the columns, each once, {KEY} among them; "
                    f"it is {','.join(columns)[:200]!r}"
                )
        elif values and len(values) != len(columns):
            table.problems.append((line, f"{len(values)} values for {len(columns)} columns"))
        elif values:
            yield line, dict(zip(columns, values, strict=True))
