"""`dataset new | add | ls | show | caption | undo | redo | crops | export | rename | remove`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError, UsageError
from .arguments import AsJson
from .output import columns, emit

if TYPE_CHECKING:
    from ..dataset import Dataset, Verdict
    from ..dataset.editing import Edit
    from ..sections import DataOptions

app = typer.Typer(
    help="Take photos in, write their captions, see what is wrong with them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Name = Annotated[
    str, typer.Argument(metavar="DATASET", help="Its folder, or its name or id in the workspace.", show_default=False)
]
Ids = Annotated[list[str] | None, typer.Option("--picture", help="Id of a picture, as `show` tells; may be repeated.")]
Place = Annotated[
    Path | None, typer.Option("--in", help="Folder of datasets; the workspace's by default.", show_default=False)
]
Resolution = Annotated[int, typer.Option("--resolution", help="As data.resolution of a recipe.")]
Cut = Annotated[str, typer.Option("--crop", help="As data.crop: buckets, center or random.")]
Step = Annotated[int | None, typer.Option("--bucket-step", help="As data.bucket_step.", show_default="64")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    place: Place = None,
    as_json: AsJson = False,
) -> None:
    """Make an empty dataset."""
    from ..dataset import Dataset
    from ..dataset.place import default_place
    from ..dataset.record import fresh_id

    made = Dataset.new((place or default_place()) / fresh_id(), name)
    if as_json:
        emit({"id": made.path.name, "path": made.path, "images": made.images})
        return
    typer.echo(f"{made.path}\nadd photos to it: tuner dataset add {made.path} photos/")


@app.command()
def add(
    name: Name,
    files: Annotated[
        list[Path], typer.Argument(help="Pictures, folders, zips, captions (.txt, metadata.jsonl).", show_default=False)
    ],
    as_json: AsJson = False,
) -> int:
    """Take in pictures and captions; each file gets a verdict. Exit code 65 where not one was of use."""
    from ..data.images import MAX_BYTES
    from ..dataset import Limits, intake_paths

    dataset = _dataset(name)
    limits = Limits(file_bytes=MAX_BYTES, zip_bytes=2**40)  # what lies on one's own disk may be large
    verdicts = []
    for verdict in intake_paths(dataset, files, limits):
        verdicts.append(verdict)
        if not as_json:
            typer.echo(_told(verdict))
    code = 0 if any(verdict.accepted for verdict in verdicts) else DataError.exit_code
    if as_json:
        emit({"verdicts": verdicts})
        return code
    taken = sum(verdict.accepted and verdict.kind == "picture" for verdict in verdicts)
    refused = sum(not verdict.accepted for verdict in verdicts)
    typer.echo(f"{taken} pictures taken in, {refused} files refused; data.images.path={dataset.images}")
    return code


@app.command()
def ls(place: Place = None, as_json: AsJson = False) -> None:
    """List the datasets of the workspace."""
    from ..dataset.place import datasets, default_place

    folder = place or default_place()
    found = [(dataset.path.name, dataset.contents(), dataset.path) for dataset in datasets(folder)]
    if as_json:
        emit([{"id": id, "name": one.name, "pictures": len(one.pictures), "path": path} for id, one, path in found])
        return
    if found:
        rows = [(id, str(len(one.pictures)), one.name) for id, one, _ in found]
        typer.echo(columns(rows, ("id", "pictures", "name")))
    typer.echo(f"{folder}: {len(found)} datasets; TUNER_WORKSPACE sets the place")


@app.command()
def show(
    name: Name,
    resolution: Resolution = 512,
    crop: Cut = "buckets",
    bucket_step: Step = None,
    as_json: AsJson = False,
) -> None:
    """Tell what is in a dataset: pictures, captions, what was refused, and advice."""
    from ..dataset.advice import advise
    from ..dataset.words import words

    dataset = _dataset(name)
    found = dataset.look()
    contents, captions = found.contents, found.captions()
    advice = advise(contents.pictures, captions, _options(resolution, crop, bucket_step))
    frequent = words(captions.values())
    if as_json:
        pictures = [
            {"id": one.id, "name": one.name, "caption": captions[one.id], "size": one.size, "notes": one.notes}
            for one in contents.pictures
        ]
        emit(
            {
                "name": contents.name,
                "path": dataset.path,
                "images": dataset.images,
                "pictures": pictures,
                "waiting": contents.waiting,
                "refused": contents.refused,
                "refused_before": contents.refused_before,
                "advice": advice,
                "words": frequent,
            }
        )
        return
    rows = [(one.id, f"{one.width}x{one.height}", one.name, captions[one.id]) for one in contents.pictures]
    typer.echo(columns(rows, ("id", "size", "name", "caption")) if rows else "no pictures yet")
    for one in contents.waiting:
        typer.echo(f"{one.name}: waits for the picture of that name: {one.text}")
    for refused in contents.refused:
        typer.echo(f"{refused.name}: refused: {refused.reason}")
    if frequent:
        typer.echo("words: " + ", ".join(f"{word.text} {word.pictures}" for word in frequent[:20]))
    for one in advice:
        typer.echo(f"* {one.text}")


@app.command()
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
    dataset = _dataset(name)
    edited = (editing.preview if dry_run else editing.apply)(dataset, edits[0], only)
    if as_json:
        emit({"dry_run": dry_run, "what": edited.what, "before": edited.before, "after": edited.after})
        return
    for id, after in edited.after.items():
        typer.echo(f"{id}: {edited.before[id]!r} -> {after!r}")
    typer.echo(f"{edited.changed} of {edited.pictures} captions {'would change' if dry_run else 'changed'}")


@app.command()
def undo(name: Name, as_json: AsJson = False) -> None:
    """Take back the latest edit."""
    from ..dataset import editing

    _taken_back(editing.undo(_dataset(name)), "taken back", as_json)


@app.command()
def redo(name: Name, as_json: AsJson = False) -> None:
    """Do again what was taken back last."""
    from ..dataset import editing

    _taken_back(editing.redo(_dataset(name)), "done again", as_json)


@app.command()
def crops(
    name: Name,
    resolution: Resolution = 512,
    crop: Cut = "buckets",
    bucket_step: Step = None,
    as_json: AsJson = False,
) -> None:
    """Tell how training will cut each picture."""
    from ..dataset import crops as core

    data = _options(resolution, crop, bucket_step)
    found = [(one, core.crop(one.size, data)) for one in _dataset(name).contents().pictures]
    if as_json:
        emit([{"id": one.id, "name": one.name, "crop": cut} for one, cut in found])
        return
    rows = [
        (one.id, f"{one.width}x{one.height}", f"{cut.size[0]}x{cut.size[1]}", f"{cut.kept:.0%}", one.name, cut.advice)
        for one, cut in found
    ]
    typer.echo(columns(rows, ("id", "size", "trained at", "kept", "name", "")))


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="The zip to write.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Write pictures and captions (metadata.jsonl) as one zip."""
    from ..dataset.export import export as write

    written = write(_dataset(name), out)
    if as_json:
        emit(written)
        return
    typer.echo(f"{written.path}: {written.pictures} pictures, {written.bytes / 1e6:.1f} MB")


@app.command()
def rename(
    name: Name,
    to: Annotated[str, typer.Argument(help="The new name.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Call a dataset something else."""
    kept = _dataset(name).rename(to)
    if as_json:
        emit({"name": kept})
        return
    typer.echo(kept)


@app.command()
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
    dataset = _dataset(name)
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


def _dataset(name: str) -> Dataset:
    from ..dataset.place import find

    return find(name)


def _options(resolution: int, crop: str, bucket_step: int | None) -> DataOptions:
    """Raises: UsageError."""
    from ..dataset.crops import options

    return options(resolution, crop, bucket_step)


def _told(verdict: Verdict) -> str:
    word = verdict.picture if verdict.accepted and verdict.kind == "picture" else ""
    said = "taken in" if verdict.accepted else f"refused: {verdict.reason}"
    return f"{verdict.name}: " + "; ".join([f"{said} as {word}" if word else said, *verdict.notes])


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
