"""The two axes of a grid of pictures: what may vary, how its values are written, and their bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import UsageError
from .outcome import FINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MOST_CELLS = 400
STRENGTHS = (0.0, 2.0)
"""Beyond this range adapters only burn the picture."""
LONGEST = 2000
"""Characters of a prompt."""

Value = int | float | str

_WHOLE = re.compile(r"[0-9]{1,19}", re.ASCII)
_DECIMAL = re.compile(r"[-+]?([0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Axis:
    """What varies along one side, in the order in which it is drawn there."""

    name: str
    """One of NAMES."""
    values: tuple[Value, ...]

    @property
    def labels(self) -> list[str]:
        """What is written beside each value."""
        return [label(self.name, value) for value in self.values]


def label(name: str, value: Value) -> str:
    """`strength 0.5`, `step 200`, `final`; of a prompt its words."""
    if isinstance(value, str):
        return value
    return (
        f"{'step' if name == 'checkpoint' else name} {value:g}"
        if isinstance(value, float)
        else f"{_noun(name)} {value}"
    )


def _noun(name: str) -> str:
    return "step" if name == "checkpoint" else name


def parse_axis(text: str, option: str = "--x") -> Axis:
    """`NAME=VALUE,VALUE...`; prompts are separated by `|`, for they have commas of their own.

    Args:
        text: such as `strength=0,0.5,1`.
        option: that it was given to, for the message.

    Raises: UsageError where there is no such axis, no value, a value that is none, or one that is there twice.
    """
    name, equals, rest = text.partition("=")
    name = name.strip().lower()
    if not equals or name not in NAMES:
        what = (
            f"{option} {text[:60]!r}: there is no axis {name[:40]!r}"
            if equals
            else f"{option} {text[:60]!r} is no axis"
        )
        raise UsageError(what, f"write NAME=VALUE,VALUE... with one of {', '.join(NAMES)}")
    words = [word.strip() for word in rest.split("|" if name == "prompt" else ",")]
    if not any(words):
        raise UsageError(f"{option} {name}= has no values", f"such as {option} {EXAMPLES[name]}")
    if not all(words):
        raise UsageError(
            f"{option} {text[:60]!r}: a value between two separators is empty", f"such as {EXAMPLES[name]}"
        )
    values = tuple(NAMES[name](word, f"{option} {name}") for word in words)
    seen = set()
    for value in values:
        if value in seen:
            raise UsageError(f"{option} {name} has {label(name, value)[:60]!r} twice", "name each value once")
        seen.add(value)
    return Axis(name, values)


def spelled(axis: Axis) -> str:
    """An axis as `parse_axis` reads it."""
    words = [
        f"{value:.9f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value) for value in axis.values
    ]
    return f"{axis.name}={('|' if axis.name == 'prompt' else ',').join(words)}"


def check_size(x: Axis, y: Axis | None) -> None:
    """Raises: UsageError where the grid has too many cells, or the same thing varies along both sides."""
    if y is not None and y.name == x.name:
        raise UsageError(f"both --x and --y vary the {x.name}", "let one of them vary something else, or leave out --y")
    count = len(x.values) * (len(y.values) if y else 1)
    if count > MOST_CELLS:
        raise UsageError(f"this grid has {count} cells; at most {MOST_CELLS} are drawn", "name fewer values")


def strength(text: str, where: str) -> float:
    """Raises: UsageError."""
    return _decimal(text, where, *STRENGTHS)


def seed(text: str, where: str) -> int:
    """Raises: UsageError."""
    return _whole(text, where, 0, 2**63 - 1)


def steps(text: str, where: str) -> int:
    """Raises: UsageError."""
    return _whole(text, where, 1, 1000)


def guidance(text: str, where: str) -> float:
    """Raises: UsageError."""
    return _decimal(text, where, 0.0, 50.0)


def prompt(text: str, where: str) -> str:
    """Raises: UsageError."""
    if len(text) > LONGEST:
        raise UsageError(f"{where}: a prompt of {len(text)} characters; at most {LONGEST} are drawn")
    return text


def checkpoint(text: str, where: str) -> int | str:
    """A saved step, or `final`. Raises: UsageError."""
    return FINAL if text.lower() == FINAL else _whole(text, where, 0, 10**12 - 1, f", nor {FINAL}")


def _whole(text: str, where: str, least: int, most: int, nor: str = "") -> int:
    if not _WHOLE.fullmatch(text):
        raise UsageError(f"{where}: {text[:40]!r} is no whole number{nor}")
    value = int(text)
    if not least <= value <= most:
        raise UsageError(f"{where}: {value} is outside {least} to {most}")
    return value


def _decimal(text: str, where: str, least: float, most: float) -> float:
    if not _DECIMAL.fullmatch(text):
        raise UsageError(f"{where}: {text[:40]!r} is no number", "such as 0.5")
    value = float(text)
    if not least <= value <= most:
        raise UsageError(f"{where}: {value:g} is outside {least:g} to {most:g}")
    return value + 0.0  # -0 is 0


NAMES: Mapping[str, Callable[[str, str], Value]] = {
    "checkpoint": checkpoint,
    "strength": strength,
    "seed": seed,
    "prompt": prompt,
    "guidance": guidance,
    "steps": steps,
}
"""What may vary, and what reads one value of it."""
EXAMPLES: Mapping[str, str] = {
    "checkpoint": "checkpoint=200,400,final",
    "strength": "strength=0,0.5,1",
    "seed": "seed=0,1,2",
    "prompt": "prompt=a photo of sks dog|a photo of a dog",
    "guidance": "guidance=3,5,7.5",
    "steps": "steps=10,20,30",
}
