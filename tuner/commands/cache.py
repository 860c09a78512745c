"""`cache ls | gc | verify`: what was encoded once and is kept."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ..errors import StorageError
from .arguments import AsJson
from .output import columns, emit

app = typer.Typer(
    help="Look after the cache of encoded pictures and captions.", no_args_is_help=True, rich_markup_mode="markdown"
)
DAY_S = 86_400


@app.command()
def ls(as_json: AsJson = False) -> int:
    """List what the cache holds, and where it is."""
    from ..data.cache import Cache
    from ..planning import size

    cache = Cache()
    found = cache.entries()
    if as_json:
        emit({"root": cache.root, "entries": found})
        return 0
    now = time.time()
    rows = [
        (one.kind, one.name, str(one.count), size(one.bytes), f"{(now - one.used_s) / DAY_S:.0f} days ago", one.problem)
        for one in found
    ]
    if rows:
        typer.echo(columns(rows, ("kind", "file", "records", "size", "last used", "")))
    typer.echo(
        f"{cache.root}: {size(sum(one.bytes for one in found))} in {len(found)} files; TUNER_CACHE sets the place"
    )
    return 0


@app.command()
def gc(
    days: Annotated[float | None, typer.Option(min=0, help="Also remove what was not used for so many days.")] = None,
    gigabytes: Annotated[
        float | None, typer.Option("--gb", min=0, help="Then remove the least used down to so many GB.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> int:
    """Remove what is damaged, superseded or left behind, and what you say is too old or too much."""
    from ..data.cache import Cache
    from ..planning import size

    limit = None if gigabytes is None else int(gigabytes * 1e9)
    removals = Cache().gc(max_age_days=days, max_bytes=limit, dry_run=dry_run)
    if as_json:
        emit(removals)
        return 0
    for one in removals:
        typer.echo(f"{one.name}: {one.why}")
    freed = sum(one.bytes for one in removals if one.done or dry_run)
    typer.echo(f"{'would free' if dry_run else 'freed'} {size(freed)}")
    return 0


@app.command()
def verify(as_json: AsJson = False) -> int:
    """Compare every record with its checksum; exit code 74 where one is damaged."""
    from ..data.cache import Cache

    bad = Cache().verify()
    damaged = [one for one in bad if not one.foreign]
    if as_json:
        emit({"ok": not damaged, "problems": bad})
        return StorageError.exit_code if damaged else 0
    for one in bad:
        typer.echo(f"{one.name}{f' {one.key}' if one.key else ''}: {one.why}")
    if damaged:
        raise StorageError(
            f"{len(damaged)} records are damaged", "`tuner cache gc` removes them; a run encodes them again"
        )
    typer.echo("every record is as it was written")
    return 0
