"""`dataset new | add | ls | show | forget-refused | caption | undo | redo | crops | export | rename | remove`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError
from .arguments import AsJson
from .dataset_edits import Name, caption, opened, redo, remove, undo
from .output import columns, emit

if TYPE_CHECKING:
    from ..dataset import Verdict
    from ..sections import DataOptions

app = typer.Typer(
    help="Take photos in, write their captions, see what is wrong with them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

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
    from ..data.listing import count
    from ..dataset import Limits, intake_paths

    dataset = opened(name)
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
    said = f"{count(taken, 'picture')} taken in, {count(refused, 'file')} refused"
    typer.echo(f"{said}; data.images.path={dataset.images}")
    return code


@app.command()
def ls(place: Place = None, as_json: AsJson = False) -> None:
    """List the datasets of the workspace."""
    from ..data.listing import count
    from ..dataset.place import datasets, default_place

    folder = place or default_place()
    found = [(dataset.path.name, dataset.contents(), dataset.path) for dataset in datasets(folder)]
    if as_json:
        emit([{"id": id, "name": one.name, "pictures": len(one.pictures), "path": path} for id, one, path in found])
        return
    if found:
        rows = [(id, str(len(one.pictures)), one.name) for id, one, _ in found]
        typer.echo(columns(rows, ("id", "pictures", "name")))
    typer.echo(f"{folder}: {count(len(found), 'dataset')}; TUNER_WORKSPACE sets the place")


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
    from ..wording import quoted

    dataset = opened(name)
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
        typer.echo(f"{one.name}: waits for the picture of that name: {quoted(one.text)}")
    for refused in contents.refused:
        typer.echo(f"{refused.name}: refused: {refused.reason}")
    if frequent:
        typer.echo("words: " + ", ".join(f"{word.text} {word.pictures}" for word in frequent[:20]))
    for one in advice:
        typer.echo(f"* {one.text}")


@app.command()
def forget_refused(name: Name, as_json: AsJson = False) -> None:
    """Empty the list of refused files that `show` tells; the dataset itself stays as it is."""
    from ..data.listing import count
    from ..dataset import landing

    forgotten = landing.forget_refused(opened(name))
    if as_json:
        emit({"forgotten": forgotten})
        return
    typer.echo(f"{count(forgotten, 'refused file')} forgotten")


for edit in (caption, undo, redo):
    app.command()(edit)


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
    found = [(one, core.crop(one.size, data)) for one in opened(name).contents().pictures]
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
    from ..data.listing import count
    from ..dataset.export import export as write

    written = write(opened(name), out)
    if as_json:
        emit(written)
        return
    typer.echo(f"{written.path}: {count(written.pictures, 'picture')}, {written.bytes / 1e6:.1f} MB")


@app.command()
def rename(
    name: Name,
    to: Annotated[str, typer.Argument(help="The new name.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Call a dataset something else."""
    kept = opened(name).rename(to)
    if as_json:
        emit({"name": kept})
        return
    typer.echo(kept)


app.command()(remove)


def _options(resolution: int, crop: str, bucket_step: int | None) -> DataOptions:
    """Raises: UsageError."""
    from ..dataset.crops import options

    return options(resolution, crop, bucket_step)


def _told(verdict: Verdict) -> str:
    word = verdict.picture if verdict.accepted and verdict.kind == "picture" else ""
    said = "taken in" if verdict.accepted else f"refused: {verdict.reason}"
    return f"{verdict.name}: " + "; ".join([f"{said} as {word}" if word else said, *verdict.notes])
