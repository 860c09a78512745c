"""`runs`, `stop`, `save`, `sample`: look at runs and talk to those that are running."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import columns, emit

if TYPE_CHECKING:
    from ..rundir import RunSummary

ROOT = Path("runs")
Which = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="A run's directory or name; may be left out while only one is running."),
]
Root = Annotated[Path, typer.Option("--root", help="The folder that holds the runs.")]


def list_runs(
    root: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder that holds them.")] = ROOT,
    as_json: AsJson = False,
) -> int:
    """List the runs, the latest first: what each is doing, how far it is, its loss."""
    from ..console import duration
    from ..rundir import runs

    found = runs(root)
    if as_json:
        emit(found)
        return 0
    if not found:
        typer.echo(f"no runs in {root}; `tuner run --rehearse` makes one in about a minute")
        return 0
    rows = [
        (
            one.name,
            one.state,
            f"{one.step}" if one.total is None else f"{one.step} of {one.total}",
            "" if one.loss is None else f"{one.loss:.4f}",
            "" if one.age_s is None else f"{duration(one.age_s)} ago",
        )
        for one in found
    ]
    typer.echo(columns(rows, ("run", "state", "step", "loss", "started")))
    return 0


def stop(
    which: Which = None,
    now: Annotated[bool, typer.Option("--now", help="End at the next step without drawing samples or files.")] = False,
    root: Root = ROOT,
) -> int:
    """Ask a run to save its state and stop; `tuner run` goes on from there."""
    return ask(which, root, "stop-now" if now else "stop", "it saves its state after the step at hand and stops")


def save(which: Which = None, root: Root = ROOT) -> int:
    """Ask a run to write a checkpoint and adapter files now."""
    return ask(which, root, "save", "it saves after the step at hand")


def sample(which: Which = None, root: Root = ROOT) -> int:
    """Ask a run to draw its sample prompts now."""
    return ask(which, root, "sample", "it draws its samples after the step at hand")


def ask(which: str | None, root: Path, command: str, what: str) -> int:
    """Send a command to a living run. Raises: UsageError where there is none of that name, or it is not running."""
    from .. import control
    from ..rundir import RunDir
    from ..status import LIVE

    path = find_run(which, root)
    status = RunDir(path).status()
    if status is None or status.state not in LIVE:
        state = status.state if status else "not started"
        raise UsageError(f"{path} is not running: {state}", "`tuner runs` lists what is")
    control.request(path, command)
    typer.echo(f"asked {path}: {what}")
    return 0


def find_run(which: str | None, root: Path) -> Path:
    """The directory of the run that is meant.

    Args:
        which: a directory, or a name below `root`; None stands for the one that is running.
        root: the folder that holds the runs.

    Raises: UsageError.
    """
    from ..rundir import RunDir, runs

    if which is None:
        return only_living(runs(root), root)
    for path in (Path(which).expanduser(), root / which):
        if path.is_dir() and RunDir(path).is_run:
            return path
    names = [one.name for one in runs(root)]
    close = difflib.get_close_matches(which, names, n=1)
    known = f"did you mean {close[0]!r}?" if close else f"in {root} there is {', '.join(names[:8])}" if names else ""
    raise UsageError(f"there is no run {which!r}", known or f"there are no runs in {root}; --root names another folder")


def only_living(found: list[RunSummary], root: Path) -> Path:
    from ..status import LIVE

    living = [one for one in found if one.state in LIVE]
    if not living:
        raise UsageError(
            f"nothing is running in {root}", "`tuner runs` lists what there is; --root names another folder"
        )
    if len(living) > 1:
        raise UsageError(f"{len(living)} runs are running", f"name one: {', '.join(one.name for one in living)}")
    return living[0].path
