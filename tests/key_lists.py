"""The names of LoRA layers that other tools map, as their own code printed them (tests/fixtures/keys)."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "fixtures" / "keys"
FAMILIES = {"sd15": "sd15", "sd35_medium": "sd35", "sd35_large": "sd35"}
"""By architecture, the backbone's name."""
READERS = ("a1111", "comfyui", "forge", "invokeai", "sd_scripts")


@cache
def told(tool: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{tool}.json").read_text("utf-8"))


@cache
def mapped(tool: str, architecture: str) -> frozenset[str]:
    """The names that a tool looks up for the true model."""
    return frozenset(expanded(told(tool)["layers"][architecture]))


@cache
def written(form: str, architecture: str) -> frozenset[str]:
    """The names that OneTrainer writes in one of its output formats."""
    return frozenset(expanded(told("onetrainer")["writes"][form][architecture]))


@cache
def all_names(architecture: str) -> frozenset[str]:
    """Every name of a layer that stands in any list."""
    lists = [mapped(tool, architecture) for tool in (*READERS, "lycoris")]
    return frozenset().union(*lists, *(written(form, architecture) for form in told("onetrainer")["writes"]))


def expanded(patterns: Iterable[str]) -> Iterator[str]:
    """`a_<0-1,4>_(x|y)` stands for a_0_x, a_0_y, a_1_x ... a_4_y."""
    for pattern in patterns:
        parts = re.findall(r"<[^>]+>|\([^)]*\)|[^<(]+", pattern)
        yield from ("".join(choice) for choice in itertools.product(*map(_options, parts)))


def _options(part: str) -> list[str]:
    if part.startswith("("):
        return [name for text in part[1:-1].split("|") for name in (expanded([text]) if text else [""])]
    if not part.startswith("<"):
        return [part]
    ends = [(run.split("-")[0], run.split("-")[-1]) for run in part[1:-1].split(",")]
    return [str(n) for first, last in ends for n in range(int(first), int(last) + 1)]
