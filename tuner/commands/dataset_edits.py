"""`dataset caption | undo | redo | remove`: what changes a dataset and can be taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import emit

if TYPE_CHECKING:
    from ..dataset import Dataset
    from ..dataset.editing import Edit

Name = Annotated[
    str, typer.Argument(metavar="DATASET", help="Its folder, or its name or id in the workspace.", show_default=False)
]
Ids = Annotated[list[str] | None, typer.Option("--picture", help="Id of a picture, as `show` tells; may be repeated.")]


def caption(
    name: Name,
    only: Ids = None,
    text: Annotated[str | None, typer.Option(help="The whole caption.", show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option(help="Put before each caption.", show_default=False)] = None,
    suffix: Annotated[str | None, typer.Option(help="Put behind each caption.", show_default=False)] = None,
    find: Annotated[str | None, typer.Option(help="What --replace takes the place of.", show_default=False)] = None,
    replace: Annotated[str | None, typer.Option(help="What comes in its place.", show_default=False)] = None,
    any_case: Annotated[bool, typer.Option("--any-case", help="--find takes upper case for lower case.")] = False,
    trigger: Annotated[str | None, typer.Option(help="Word put in front where absent.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change captions, all of them or those of --picture; `undo` takes it back."""
    from ..dataset import editing

    edits: list[Edit] = []
    edits += [editing.Whole(text)] if text is not None else []
    edits += [editing.Prefix(prefix)] if prefix is not None else []
    edits += [editing.Suffix(suffix)] if suffix is not None else []
    edits += [editing.Trigger(trigger)] if trigger is not None else []
    if (find is None) != (replace is None):
        raise UsageError("--find and --replace belong together", "give both; --replace '' takes words out")
    if find is not None and replace is not None:
        edits.append(editing.Replace(find, replace, any_case))
    if len(edits) != 1:
        raise UsageError(
            f"{len(edits)} edits are asked for",
            "give --text, --prefix, --suffix, --trigger, or --find with --replace",
        )
    dataset = opened(name)
    edited = (editing.preview if dry_run else editing.apply)(dataset, edits[0], only)
    if as_json:
        emit({"dry_run": dry_run, "what": edited.what, "before": edited.before, "after": edited.after})
        return
    for id, after in edited.after.items():
        typer.echo(f"{id}: {edited.before[id]!r} -> {after!r}")
    typer.echo(f"{edited.changed} of {edited.pictures} captions {'would change' if dry_run else 'changed'}")


def undo(name: Name, as_json: AsJson = False) -> None:
    """Take back the latest edit."""
    from ..dataset import editing

    _taken_back(editing.undo(opened(name)), "taken back", as_json)


def redo(name: Name, as_json: AsJson = False) -> None:
    """Do again what was taken back last."""
    from ..dataset import editing

    _taken_back(editing.redo(opened(name)), "done again", as_json)


def remove(
    name: Name,
    only: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole dataset, for good.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take pictures out, which `undo` takes back; or remove the whole dataset, which nothing does."""
    from ..dataset import editing

    if bool(only) == everything:
        raise UsageError("what is to go?", "--picture ID takes one picture out, --all the whole dataset")
    dataset = opened(name)
    if everything:
        dataset.delete()
        if as_json:
            emit({"removed": dataset.path})
            return
        typer.echo(f"{dataset.path} is gone")
        return
    removed = editing.remove(dataset, only or ())
    if as_json:
        emit({"what": removed.what, "before": removed.before})
        return
    typer.echo(f"{removed.what}: done; `tuner dataset undo {name}` takes it back")


def opened(name: str) -> Dataset:
    """The dataset that a command names."""
    from ..dataset.place import find

    return find(name)


def _taken_back(back: Any, said: str, as_json: bool) -> None:
    if as_json:
        emit(back)
        return
    if not back.what:
        typer.echo("there is nothing to take back" if said == "taken back" else "there is nothing to do again")
        return
    typer.echo(f"{said}: {back.what}")
    for name in back.left:
        typer.echo(f"{name}: left as it is, for it was changed since")
