"""What a run is doing, in plain words, and which commands make sense to it now."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner import checkpoint
from tuner.errors import StorageError
from tuner.rundir import RunDir
from tuner.status import LIVE, Status, read_status

from . import words
from .buttons import Button, asked, buttons
from .files import LARGEST_TEXT, folder_mark, mark

if TYPE_CHECKING:
    from pathlib import Path

TITLES = {
    "queued": "Waiting",
    "starting": "Starting",
    "caching": "Preparing pictures",
    "training": "Training",
    "sampling": "Drawing samples",
    "saving": "Saving",
    "done": "Done",
    "stopped": "Stopped",
    "failed": "Failed",
    "interrupted": "Interrupted",
    "unknown": "Unknown",
    "gone": "Gone",
}
"""What each state is called, in a word or two."""
TONES = {
    "done": "good",
    "failed": "bad",
    "interrupted": "bad",
    "stopped": "idle",
    "queued": "idle",
    "unknown": "bad",
    "gone": "bad",
}
"""How a state looks: good, bad or idle; every other one is live."""


_PHASES = {"class pictures": "drawing class pictures"}
"""Names of phases that say too little by themselves."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of the Monitor screen. Texts are empty where nothing is known."""

    state: str
    """One of `tuner.status.STATES`, `unknown` where status.json is damaged, or `gone` where there is no folder."""
    title: str
    tone: str
    """live, good, bad or idle."""
    said: str
    """A sentence: what it is doing, or how it ended."""
    hint: str
    """What to do next."""
    step: int
    total: int | None
    share: float | None
    """Of the training that is done, 0 to 1."""
    progress: str
    """'120 of 800 steps'."""
    left: str
    """'3 minutes left', of the whole training where that is known, else of the phase at hand."""
    pace: str
    memory: str
    started: str
    best: str
    """The saved step with the lowest validation loss."""
    asked: tuple[str, ...]
    """Commands that were given and not yet taken, as sentences."""
    buttons: tuple[Button, ...]


def status_of(run: Path) -> Status | None:
    """The status as it is true now; None where there is none that can be read."""
    path = RunDir(run).status_file
    found = mark(path)
    if not found or found.size > LARGEST_TEXT:  # a pipe in its place would make the reader wait for ever
        return None
    try:
        return read_status(path)
    except (StorageError, OverflowError):  # not ours to read, or a number beyond what a float holds
        return None


def head(run: Path, status: Status | None, now: float | None = None) -> Head:
    """What is known of a run.

    Args:
        run: its directory.
        status: as `status_of` gave it.
        now: Unix seconds.
    """
    now = time.time() if now is None else now
    state = status.state if status else without_status(run)
    status = status or Status(run.name)
    step, total = words.whole(status.step), words.total(status.total)
    said, hint = _sentence(run, state, status)
    best = status.best
    return Head(
        state=state,
        title="Measuring" if state in LIVE and status.phase == "validating" else TITLES[state],
        tone=TONES.get(state, "live"),
        said=said,
        hint=hint,
        step=step,
        total=total,
        share=min(step / total, 1.0) if total else (1.0 if state == "done" else None),
        progress=words.of(step, total, "step") if state not in ("queued", "unknown", "gone") else "",
        left=_left(state, status, step, total),
        pace=words.pace(status.it_s) if state in LIVE else "",
        memory=_memory(status) if state in LIVE else "",
        started=words.ago(_since(now, status.started)),
        best=f"step {words.whole(best.step):,}, validation loss {words.figure(best.validation_loss)}" if best else "",
        asked=asked(run, state) if state in LIVE else (),
        buttons=buttons(run, state),
    )


def without_status(run: Path) -> str:
    """The state of a run that has no status to read: it was never begun, that file was damaged, or all is gone."""
    if not folder_mark(run):
        return "gone"
    place = RunDir(run)
    began = mark(place.resolved_file) or mark(place.metrics_file) or mark(place.status_file)
    return "unknown" if began else "queued"


def _sentence(run: Path, state: str, status: Status) -> tuple[str, str]:
    """What it does or how it ended, and what to do next."""
    if state in LIVE:
        return _doing(state, status), ""
    if state == "failed":
        fault = status.error
        said = words.shown(fault.message) if fault else ""
        hint = words.shown(fault.hint) if fault else "The log may tell what happened."
        return said or "It failed without saying why.", hint or _going_on(run)
    steps = words.of(words.whole(status.step), words.total(status.total), "step")
    every = words.count(words.whole(status.step), "step")
    again = _going_on(run) if state in ("stopped", "interrupted") else ""
    return {
        "queued": ("It has not begun yet.", ""),
        "done": (f"Trained for {every}, and the files are saved.", "See what came of it in Results."),
        "stopped": (f"It was stopped at {steps}.", again),
        "interrupted": (f"The process is gone, at {steps}.", again),
        "unknown": (
            "What this run is doing is not known: its status.json cannot be read.",
            "The log may tell what happened. Resume starts it again.",
        ),
        "gone": ("There is no such run any more: its folder is gone.", "Choose another run."),
    }[state]


def _doing(state: str, status: Status) -> str:
    """The phase at hand, with how far it is: 'Preparing pictures: 12 of 20.'"""
    done, total = words.whole(status.phase_done), words.total(status.phase_total)
    phase = words.one_line(status.phase, 80)
    if state == "caching" and phase == "caching":
        return f"Preparing {words.of(done, total, 'picture')} and captions." if total else "Preparing the pictures."
    if state == "sampling":
        return f"Drawing {words.count(total, 'sample')}." if total else "Drawing samples."
    if state == "saving":
        return "Writing a checkpoint and loading it back to be sure of it."
    if phase == "validating":
        return f"Measuring the loss on {words.count(total, 'held-out picture')}." if total else "Measuring the loss."
    if phase in ("training", "starting"):
        return {"training": "Training.", "starting": "Reading the recipe and the pictures."}[phase]
    phase = "looking at the pictures" if phase.startswith("looking at ") else _PHASES.get(phase, phase)
    named = phase[:1].upper() + phase[1:]
    return f"{named}: {done:,} of {total:,}." if total else f"{named}."


def _going_on(run: Path) -> str:
    """What Resume would do."""
    found = saved_steps(run)
    if found is None:
        return "Its checkpoints cannot be read."
    return f"Resume goes on from step {found[-1]:,}." if found else "Nothing was saved yet, so Resume begins again."


def saved_steps(run: Path) -> list[int] | None:
    """Steps that a run can go on from, ascending; None where they cannot be listed."""
    try:
        return checkpoint.steps(RunDir(run).checkpoints)
    except (StorageError, OSError):
        return None


def _left(state: str, status: Status, step: int, total: int | None) -> str:
    """Of the whole training, interludes aside; before it begins, of the phase."""
    if state not in LIVE:
        return ""
    rate = words.number(status.it_s)
    if state in ("training", "sampling", "saving") and rate and rate > 0 and total is not None:
        own = words.number(status.eta_s) if status.phase == "training" else None
        return words.left(max(total - step, 0) / rate if own is None else own)
    said = words.left(status.eta_s)
    return f"{said} of this part" if said.endswith("left") else ""


def _memory(status: Status) -> str:
    """'3.4 GB on the GPU, 1.2 GB of main memory'."""
    found: dict[str, Any] = dict(status.memory)
    places = (("device", "on the GPU"), ("process", "of main memory"))
    return ", ".join(f"{said} {where}" for place, where in places if (said := words.memory(found.get(place))))


def _since(now: float, then: float | None) -> float | None:
    then = words.number(then)
    return None if then is None else now - then
