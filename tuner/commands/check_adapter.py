"""`check-adapter`: everything that is wrong with an adapter file, what each tool takes of it, and a mended one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .arguments import AsJson
from .output import columns, emit

if TYPE_CHECKING:
    from ..files.check import Checked
    from ..files.faults import Finding

PROBLEMS = 3
"""Exit code where something is wrong."""
SHOWN = 5
"""Names of one finding that are written out; `--json` has all of them."""


def check_adapter(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors file of any tool, or a folder with one.")
    ],
    fix: Annotated[bool, typer.Option("--fix", help="Write a mended file to --out, and say each thing done.")] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="With --fix: leave out what cannot be kept, such as half a layer.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="With --fix: a new file.")] = None,
    as_json: AsJson = False,
) -> int:
    """Say everything that is wrong with an adapter file, and what each tool would pass over. Exit code 3: something is.

    The file is read as numbers and text alone; nothing in it is run.
    """
    from ..files.check import check
    from ..files.mend import mend

    if not fix:
        for option, given in {"--drop": drop, "--out": out is not None}.items():
            if given:
                raise UsageError(f"{option} has no effect without --fix", "add --fix")
    elif out is None:
        raise UsageError("--fix needs a place for the mended file", "add --out FILE")
    checked = check(file)
    if not as_json:
        show(checked)
    mended = mend(checked, out.expanduser(), drop=drop) if fix and out is not None else None
    if as_json:
        facts = described(checked)
        if mended is not None:
            facts["mended"] = {
                "file": mended.out, "keys": mended.style, "done": mended.done, "dropped": mended.dropped,
                "problems": [found(one) for one in mended.after.problems],
            }  # fmt: skip
        emit(facts)
    elif mended is not None:
        for line in mended.done:
            typer.echo(f"mended: {line}")
        for name in mended.dropped:
            typer.echo(f"left out: {name}")
        left = (
            f"{len(mended.after.problems)} problems are left" if mended.after.problems else "nothing is wrong with it"
        )
        typer.echo(f"{mended.out}: the keys of {mended.style}; read back, the update is the same; {left}")
        for finding in mended.after.problems:
            typer.echo(f"  {finding.said}")
    last = mended.after if mended is not None else checked
    return PROBLEMS if last.problems else 0


def show(checked: Checked) -> None:
    """Print what a file is, and what was found."""
    ranks = ", ".join(map(str, checked.ranks[:8])) + (" ..." if len(checked.ranks) > 8 else "")
    rows = [
        ("file", checked.file.name),
        ("kind", checked.kind),
        ("base family", checked.family or ""),
        ("keys", ", ".join(checked.keys)),
        ("rank", ranks),
        ("alpha", checked.alpha),
        ("layers", ", ".join(f"{count} in the {name or 'unknown part'}" for name, count in checked.components.items())),
        ("text keys", checked.text_prefix),
    ]
    rows += [("taken by" if n == 0 else "", taken(r)) for n, r in enumerate(checked.readers)]
    typer.echo(columns([row for row in rows if row[1]]))
    for finding in sorted(checked.findings, key=lambda one: not one.problem):
        of_tool = finding.what in ("partly", "not read")
        if of_tool and not finding.problem:
            continue  # the lines above say it
        typer.echo(f"{'problem' if finding.problem else 'note'}: {finding.said}")
        for name in () if of_tool else finding.names[:SHOWN]:
            typer.echo(f"  {name}")
        if not of_tool and len(finding.names) > SHOWN:
            typer.echo(f"  and {len(finding.names) - SHOWN} more")
    if not checked.problems:
        typer.echo("nothing is wrong with it")
    elif any(finding.mended for finding in checked.problems):
        drop = " --drop" if any(finding.dropped for finding in checked.problems) else ""
        typer.echo(f"`tuner check-adapter {checked.file.name} --fix{drop} --out NEW` writes a mended file")


def taken(reading: Any) -> str:
    """What one tool takes, in words."""
    what = "all" if reading.layers == reading.of else "NOTHING" if reading.layers == 0 else f"{reading.layers}"
    return f"{reading.tool}: {what} of {reading.of} layers" + (f" ({reading.note})" if reading.note else "")


def described(checked: Checked) -> dict[str, Any]:
    """The same for programs."""
    return {
        "file": checked.file,
        "kind": checked.kind,
        "backbone": checked.family,
        "keys": checked.keys,
        "ranks": checked.ranks,
        "alpha": checked.alpha,
        "components": checked.components,
        "text_prefix": checked.text_prefix,
        "readers": checked.readers,
        "fine": not checked.problems,
        "findings": [found(finding) for finding in checked.findings],
    }


def found(finding: Finding) -> dict[str, Any]:
    """One finding for programs."""
    kind = "problem" if finding.problem else "note"
    return {"kind": kind, "what": finding.what, "said": finding.said, "names": finding.names, "mended": finding.mended}
