"""Which commands make sense to a run now, why the others do not, and which were given and not yet taken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner import atomic
from tuner.control import COMMANDS
from tuner.rundir import RunDir
from tuner.status import LIVE

from . import recipe
from .files import mark, names, text

if TYPE_CHECKING:
    from pathlib import Path

LABELS = {
    "stop": "Stop and save",
    "stop-now": "Stop now",
    "save": "Save now",
    "sample": "Sample now",
    "resume": "Resume",
}
"""What the buttons say."""
_ASKED = {"stop": "It stops and saves", "stop-now": "It stops", "save": "It saves", "sample": "It draws samples"}
_EARLY = ("starting", "caching")
"""States in which a run takes no commands yet; it finds them at its first step."""


@dataclass(frozen=True, slots=True)
class Button:
    """One command, and why it does not apply where it does not."""

    command: str
    """stop, stop-now, save, sample, or resume."""
    label: str
    applies: bool
    why_not: str = ""


def asked(run: Path, state: str) -> tuple[str, ...]:
    """What a run in this state was asked and has not taken yet."""
    when = "after its first step" if state in _EARLY else "after the step at hand"
    folder = run / "control"
    found = []
    for name in names(folder)[:100]:
        if atomic.TEMPORARY.match(name):
            continue
        command = name if name in COMMANDS else _command(text(folder / name, 4096))
        if command in _ASKED and (said := f"{_ASKED[command]} {when}.") not in found:
            found.append(said)
    return tuple(found)


def _command(content: str | None) -> str:
    try:
        tree = json.loads(content or "")
    except (ValueError, RecursionError):
        return ""
    command = tree.get("command") if isinstance(tree, dict) else None
    return command if isinstance(command, str) else ""


def buttons(run: Path, state: str) -> tuple[Button, ...]:
    """Every command, for a run in this state."""
    live = state in LIVE
    idle = {
        "queued": "it has not begun yet",
        "done": "it is done",
        "unknown": "what it is doing is not known",
        "gone": "its folder is gone",
    }.get(state, "it is not running")
    early = "it is not training yet" if state in _EARLY else ""
    found = []
    for command in ("stop", "stop-now", "save", "sample"):
        why = idle if not live else early if command in ("save", "sample") else ""
        if command == "sample" and live and not early and not _has_prompts(run):
            why = "its recipe has no sample prompts"
        found.append(Button(command, LABELS[command], not why, why))
    why = "it is running" if live else _no_resume(run, state)
    return (*found, Button("resume", LABELS["resume"], not why, why))


def _no_resume(run: Path, state: str) -> str:
    if state in ("queued", "done", "gone"):
        return {"queued": "it has not begun yet", "done": "it is done", "gone": "its folder is gone"}[state]
    place = RunDir(run)
    if not mark(place.resolved_file) and not mark(place.recipe_file):
        return "its recipe is gone"
    return ""


def _has_prompts(run: Path) -> bool:
    """Whether the recipe asks for samples; true where that cannot be read, for the run will say so itself."""
    tree = recipe.resolved(run)
    sample = tree.get("sample") if tree else None
    return bool(sample.get("prompts")) if isinstance(sample, dict) else True
