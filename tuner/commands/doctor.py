"""`doctor`: whether this machine is ready."""

from __future__ import annotations

from typing import Annotated

import typer

from .arguments import AsJson
from .output import columns, emit


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also import torch and diffusers and compute something on the device.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Look at versions, devices, disk and the Hub token; exit code 1 where something will not work."""
    from ..doctor import examine

    findings = examine(deep=deep)
    bad = [one for one in findings if one.level == "fault"]
    if as_json:
        emit({"ok": not bad, "findings": findings})
        return 1 if bad else 0
    marks = {"fine": "ok", "note": "note", "fault": "FAULT"}
    typer.echo(columns([(marks[one.level], one.subject, one.text) for one in findings]))
    for one in findings:
        if one.hint:
            typer.echo(f"  {one.subject}: {one.hint}")
    typer.echo(f"{len(bad)} {'fault' if len(bad) == 1 else 'faults'}" if bad else "this machine is ready")
    return 1 if bad else 0
