"""Check: what a recipe would do on this machine, as a card, or what stands in its way with the lines to mend."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tuner import atomic
from tuner.adapters.lora import LoRA
from tuner.backbones.download import cached_folder
from tuner.data.scan import scan
from tuner.errors import RecipeError, TunerError
from tuner.planning import find_machine, plan
from tuner.planning.rate import rates_of, read_facts, speed_facts
from tuner.resolved import scrub
from tuner.rundir import RunDir
from tuner.watch import Watcher
from tuner.wording import quoted

from . import yaml_spans as spans
from .check_card import CheckView, called, card
from .document import Problem, read
from .methods import BASES, TOYBOX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tuner.data.sources import Source
    from tuner.recipe import Recipe

    from ..workspace import Workspace

__all__ = ["CheckView", "check"]

REMEMBERED = 20
"""Latest runs that are asked how fast one like this went."""
_KEY = re.compile(r"(?P<path>[a-z_]+(?:\.\w+)*): (?P<text>.*)")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check(text: str, workspace: Workspace, run_dir: Path | None = None) -> CheckView:
    """What a recipe's text comes to on this machine. No weights are loaded, and nothing is asked of the network.

    Pictures are judged by their headers; `tuner check` decodes every one.

    Args:
        text: of a recipe.
        workspace: whose runs tell how fast a run like this one is.
        run_dir: where it would write; None is the workspace's runs.
    """
    reading = read(text)
    if isinstance(reading, list):
        return CheckView(problems=tuple(reading))
    recipe, notes = _rooted(reading.recipe, workspace.root)
    if remote := _remote(recipe):
        line = _line(text, remote[0])
        why = f"{remote[1]} is a dataset of the Hub or a table, which is read when the run starts"
        return CheckView(
            problems=(Problem(*line, remote[0], why, "`tuner plan` on the command line shows the rest"),),
            base=_base(recipe),
        )
    if lost := _lost(recipe, text):
        return CheckView(problems=tuple(lost))
    try:
        names = _names(recipe, workspace)
        found = scan(recipe, decode=False, watcher=Watcher())
        run, rate = _rate(recipe, workspace.runs)
        planned = plan(
            recipe,
            found,
            run_dir=run_dir or workspace.runs,
            machine=find_machine(recipe.train),
            steps_a_second=rate,
        )
    except TunerError as error:
        return CheckView(problems=tuple(_placed(text, error)), base=_base(recipe))
    return called(card(planned, run=run, base=_base(recipe), notes=notes), names)


def _rate(recipe: Recipe, root: Path) -> tuple[str, float | None]:
    """(run, steps a second) of the latest run that was like this one, on this machine, as `planning.measured_rate`.

    Only some of the latest are asked, and no run's metrics but the one's: this is called while somebody waits.
    """
    wanted = speed_facts(scrub(recipe))
    with atomic.storage(root, "cannot read"):
        runs = [(file.stat().st_mtime_ns, file.parent) for file in root.glob("*/status.json")]
    for _, path in sorted(runs, reverse=True)[:REMEMBERED]:
        run = RunDir(path)
        status = run.status()
        if status is None or status.host != platform.node() or read_facts(run.resolved_file) != wanted:
            continue
        if rates := rates_of(run.metrics_file):
            return path.name, median(rates)
    return "", None


def _remote(recipe: Recipe) -> tuple[str, str] | None:
    """(field, dataset) of the first source that is no folder; looking at one may take long, or the network."""
    held = (recipe.validation and recipe.validation.images) or ()
    places = {**{f"data.{name}": given for name, given in recipe.sources.items()}, "validation.images": held}
    for name, given in places.items():
        for number, source in enumerate(given):
            if source.dataset is not None:
                return f"{name}.{number}.dataset", source.dataset
    return None


def _names(recipe: Recipe, workspace: Workspace) -> dict[str, str]:
    """What the user called each picture of the workspace's datasets that a recipe names, by its file's path."""
    from tuner.dataset.store import Dataset

    found: dict[str, str] = {}
    for place in {Path(source.path) for given in recipe.sources.values() for source in given if source.path}:
        if place.name == "images" and place.parent.parent == workspace.datasets:
            contents = Dataset(place.parent).contents()
            found |= {str(place / picture.file_name): picture.name for picture in contents.pictures}
    return found


def _rooted(recipe: Recipe, root: Path) -> tuple[Recipe, list[str]]:
    """The recipe with its files as a job finds them, which runs in the workspace; a note on each that moves."""
    notes: list[str] = []

    def placed(key: str, path: str) -> str:
        if path.startswith("~") or Path(path).is_absolute():
            return path
        notes.append(f"{key}: {path} begins in the workspace, so it is {root / path}")
        return str(root / path)

    def moved(key: str, sources: Iterable[Source]) -> tuple[Source, ...]:
        return tuple(
            one if one.path is None else one.model_copy(update={"path": placed(f"{key}.path", one.path)})
            for one in sources
        )

    changed: dict[str, Any] = {}
    changed["data"] = recipe.data.model_copy(
        update={name: moved(f"data.{name}", given) for name, given in recipe.sources.items()}
    )
    if recipe.validation and recipe.validation.images:
        held = moved("validation.images", recipe.validation.images)
        changed["validation"] = recipe.validation.model_copy(update={"images": held})
    changed["adapters"] = tuple(
        one.model_copy(update={"init_from": placed(f"adapters.{n}.init_from", one.init_from)})
        if isinstance(one, LoRA) and one.init_from
        else one
        for n, one in enumerate(recipe.adapters)
    )
    model = recipe.backbone.model
    if model != TOYBOX and not model.startswith("~") and _there(root / model):
        changed["backbone"] = recipe.backbone.model_copy(update={"model": placed("backbone.model", model)})
    return (recipe.model_copy(update=changed) if notes else recipe), notes


def _there(path: Path) -> bool | None:
    """Whether a path leads somewhere; None where it is none that this system could have."""
    try:
        return path.expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL inside, no such home
        return None


def _lost(recipe: Recipe, text: str) -> list[Problem]:
    """Models that are nowhere, which the plan does not look for: it knows the sizes of a base that is not there yet."""
    found = []
    model = recipe.backbone.model
    hub = _HUB_ID.fullmatch(model) and not model.startswith(".") and not model.endswith(".safetensors")
    if model != TOYBOX and not hub and not _there(Path(model)):
        why = f"{quoted(model)}: no such file or folder, and not a Hub id (owner/name)"
        found.append(Problem(*_line(text, "backbone.model"), "backbone.model", why, "correct the path"))
    for number, adapter in enumerate(recipe.adapters):
        if isinstance(adapter, LoRA) and adapter.init_from and not _there(Path(adapter.init_from)):
            key = f"adapters.{number}.init_from"
            why = f"{quoted(adapter.init_from)}: no such file or folder"
            found.append(Problem(*_line(text, key), key, why, "correct the path"))
    return found


def _base(recipe: Recipe) -> tuple[str, ...]:
    """What to know of a base that is still to be fetched, without asking anybody."""
    model = recipe.backbone.model
    if model == TOYBOX:
        return ("The practice model ships with tuner: nothing is downloaded, and its result is for practice alone.",)
    if not _HUB_ID.fullmatch(model):
        return ()
    known = BASES.get(model)
    name = known.title if known else model
    if cached_folder(model, recipe.backbone.revision) is not None:
        return (f"{name} is on this machine already, or in part.",)
    lines = [f"{name} is downloaded from huggingface.co the first time: {known.download}."] if known else [
        f"{name} is downloaded from huggingface.co the first time, if there is one; its licence is on its page."
    ]  # fmt: skip
    if known and known.gated:
        lines.append(
            f"It is gated: accept its licence once at https://huggingface.co/{model}, then log in on this machine "
            "with `hf auth login`."
        )
    return tuple(lines)


def _line(text: str, path: str) -> tuple[int, int]:
    """Where a field stands in a text, or the nearest section around it."""
    keys = spans.document(text).keys
    words = [int(word) if word.isdecimal() else word for word in path.split(".")]
    alone = [word for word in words if not isinstance(word, int)]
    ways = [tuple(way[:end]) for way in (words, alone) for end in range(len(way), 0, -1)]
    there = [way for way in ways if way in keys]
    if there:
        place = keys[max(there, key=lambda way: sum(isinstance(word, str) for word in way))]
        return place.line, place.column
    return 1, 1


def _placed(text: str, error: TunerError) -> list[Problem]:
    """A fault of the pictures or the plan, a Problem a key; lines without a key belong to the one before."""
    found: list[Problem] = []
    lines = error.problems if isinstance(error, RecipeError) else error.message.splitlines()
    for line in lines:
        key = _KEY.fullmatch(line)
        place = _line(text, key["path"]) if key else (1, 1)
        if key and (place != (1, 1) or not found):
            found.append(Problem(*place, key["path"], key["text"], error.hint))
        elif found:
            last = found[-1]
            found[-1] = Problem(last.line, last.column, last.path, f"{last.message}\n{line}", last.hint)
        else:
            found.append(Problem(1, 1, "", line, error.hint))
    return found
