"""Which checkpoint of a run is the best: the lowest validation loss among the steps whose files are there."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import atomic

if TYPE_CHECKING:
    from pathlib import Path

LEVELS = 8
"""Noise levels that each picture is measured at: the middle of each eighth of the levels that training draws."""
SCHEMA = 1
"""Version of validation.json."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best saved step so far."""

    step: int
    validation_loss: float

    def __str__(self) -> str:
        return f"step {self.step} (validation {self.validation_loss:.4f})"


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement. Numbers that are not finite stay what they are."""

    loss: float
    """Mean over pictures and levels."""
    levels: tuple[float, ...]
    """Mean over pictures at each level, the least noise first."""

    def metrics(self) -> dict[str, float]:
        """By the name that each is logged under."""
        return {"validation_loss": self.loss} | {f"validation_loss/level_{k}": v for k, v in enumerate(self.levels)}


class History:
    """The measurements of a run by step, in validation.json, which is whole at every moment.

    Args:
        path: the file.
        measured: what else the values depend on besides the weights; others' values are not compared with ours.
    """

    def __init__(self, path: Path, measured: Mapping[str, Any]) -> None:
        self.path, self.measured = path, json.loads(json.dumps(dict(measured)))
        self.values: dict[int, Measured] = {}

    def resume(self, step: int) -> list[str]:
        """Take up what was measured up to `step`; what came after belongs to weights that are gone.

        Returns: what the user should know of values that are not taken up.

        Raises: StorageError where the file is there but may not be read.
        """
        try:
            found = read(self.path)
        except FileNotFoundError:
            return []
        except ValueError as error:
            return [f"{error}: what was measured before is not compared"] if step else []
        if not step:
            return []
        if found["measured"] != self.measured:
            return ["the validation is another one than before: what was measured before is not compared"]
        self.values = {at: value for at, value in found["values"].items() if at <= step}
        return []

    def add(self, step: int, value: Measured) -> None:
        """Raises: StorageError."""
        self.values[step] = value
        rows = [
            {"step": at, "loss": _number(value.loss), "levels": [_number(level) for level in value.levels]}
            for at, value in sorted(self.values.items())
        ]
        content = {"schema": SCHEMA, "measured": self.measured, "values": rows}
        atomic.write(self.path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def best(self, saved: Container[int]) -> Best | None:
        """The lowest finite loss among the steps that were saved, the earliest of equal ones; None without one."""
        known = [Best(at, v.loss) for at, v in self.values.items() if at in saved and math.isfinite(v.loss)]
        return min(known, key=lambda best: (best.validation_loss, best.step), default=None)


def read(path: Path) -> dict[str, Any]:
    """`measured` and `values` (`Measured` by step) of validation.json.

    Raises: FileNotFoundError; ValueError where it is damaged or of a later version; StorageError where it may not be
        read.
    """
    try:
        tree = json.loads(path.read_bytes())
        if tree["schema"] != SCHEMA:
            raise ValueError(f"{path.name} has layout version {tree['schema']}, and this program knows {SCHEMA}")
        rows = {row["step"]: (row["loss"], row["levels"]) for row in tree["values"]}
        values = {int(at): Measured(_float(loss), tuple(map(_float, levels))) for at, (loss, levels) in rows.items()}
        return {"measured": tree["measured"], "values": values}
    except FileNotFoundError:
        raise
    except OSError as error:
        raise atomic.storage_error(error, path, "cannot read") from error
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} was damaged") from error


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)
