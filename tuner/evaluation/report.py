"""What an evaluation found: a value, a JSON file and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from .measures import Number

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One measure, without and with the adapter."""

    group: str
    """Which question it answers."""
    name: str
    judge: str
    """`CLIP-I`, `DINO` or `CLIP-T`."""
    base: Number | None
    """Of the base; None where it is 0 by definition."""
    adapter: Number
    reference: Number | None = None
    """Of the photos themselves, where that says what to expect."""
    better: str = ""
    """`higher` or `lower`; empty where it depends."""

    @property
    def key(self) -> str:
        """A name for programs."""
        return f"{self.group}/{self.name}/{self.judge}"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured, and how."""

    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    """What was asked: prompts, seeds, sampler, judges, counts."""
    unmeasured: tuple[str, ...] = ()
    """What this run gives no way to measure, and why."""

    def row(self, key: str) -> Row:
        """A measure by `group/name/judge`. Raises: KeyError."""
        for row in self.rows:
            if row.key == key:
                return row
        raise KeyError(key)

    def to_json(self) -> str:
        tree = {"schema": SCHEMA, **asdict(self)}
        return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises: ValueError, KeyError or TypeError where it is no report."""
        tree = json.loads(text)
        if tree.pop("schema") != SCHEMA:
            raise ValueError("a report of another version")
        rows = [
            Row(**{**row, **{name: row[name] and Number(**row[name]) for name in ("base", "adapter", "reference")}})
            for row in tree["rows"]
        ]
        return cls(tuple(rows), tree["facts"], tuple(tree["unmeasured"]))

    def table(self) -> list[tuple[str, ...]]:
        """Cells of a table, the header first."""
        head = ("measure", "judge", "base", "adapter", "photos", "better")
        return [
            head,
            *(
                (f"{r.group}: {r.name}", r.judge, shown(r.base), shown(r.adapter), shown(r.reference), r.better)
                for r in self.rows
            ),
        ]

    def markdown(self) -> str:
        """The table for a page."""
        head, *body = self.table()
        lines = [head, tuple("---" for _ in head), *body]
        notes = [f"\nNot measured: {line}" for line in self.unmeasured]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n" + "\n".join(notes)


def shown(number: Number | None) -> str:
    """'0.812 ±0.010 (n 16)': mean, standard error, count."""
    return "" if number is None else f"{number.mean:.3f} ±{number.error:.3f} (n {number.n})"
