"""The recipe that a run was started with, read back from resolved.yaml."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from tuner.rundir import RunDir, flatten
from tuner.yaml_text import MAX_BYTES, parse

from .files import Mark, mark, text
from .words import one_line


def resolved(run: Path) -> dict[str, Any]:
    """The recipe with every default written out; empty where it cannot be read."""
    path = RunDir(run).resolved_file
    return _read(path, mark(path))


@lru_cache(maxsize=64)
def _read(path: Path, _state: Mark) -> dict[str, Any]:
    content = text(path, MAX_BYTES)
    document = parse(content) if content is not None else None
    return document.value if document and not document.faults and isinstance(document.value, dict) else {}


def flat(run: Path) -> dict[str, Any]:
    """The recipe by dotted key."""
    return flatten(found) if (found := resolved(run)) else {}


def prompts(run: Path) -> tuple[str, ...]:
    """The sample prompts."""
    sample = resolved(run).get("sample")
    found = sample.get("prompts") if isinstance(sample, dict) else None
    return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list) else ()


def seed(run: Path) -> int | None:
    """The seed of the first sample; the next prompt takes the next."""
    sample = resolved(run).get("sample")
    found = sample.get("seed") if isinstance(sample, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def summary(run: Path) -> str:
    """'lora on sd15', what was trained on what; empty where it cannot be read."""
    tree = resolved(run)
    adapters, backbone = tree.get("adapters"), tree.get("backbone")
    kinds = [item.get("name") for item in adapters if isinstance(item, dict)] if isinstance(adapters, list) else []
    base = backbone.get("name") if isinstance(backbone, dict) else None
    said = " and ".join(str(kind) for kind in kinds if kind)
    return one_line(f"{said} on {base}" if said and base else said or base or "", 80)
