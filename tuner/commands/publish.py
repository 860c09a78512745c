"""`publish`: what a run made, on the Hugging Face Hub."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .arguments import AsJson
from .output import emit
from .package import Root, Run, Step
from .runs import ROOT, find_run


def publish(
    run: Run,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made where it is not there.")],
    step: Step = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it. Without, only you do.")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Suggest the files to a repository that is there, as a pull request.")
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", help="The base's licence in the Hub's words, where the card names none."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list what would go; send nothing.")] = False,
    root: Root = ROOT,
    as_json: AsJson = False,
) -> int:
    """Put the adapter and its card on the Hugging Face Hub, privately unless --public is said.

    The token is that of `hf auth login`, or HF_TOKEN; it is never an option here.
    """
    from ..console import Console
    from ..publishing import publish as send
    from ..upload import prepare

    upload = prepare(find_run(run, root), repo, step=step, public=public, licence=licence)
    console = Console(sys.stderr if as_json else sys.stdout)
    try:
        if dry_run:
            answer = {
                "repo": repo,
                "private": not public,
                "licence": upload.licence,
                "size": upload.size,
                "files": [path.as_posix() for path in upload.files],
            }
            if not as_json:
                console.say(f"would put {len(upload.files)} files, {upload.size / 10**6:,.1f} MB, on {repo}:")
                for path in upload.files:
                    console.say(f"  {path.as_posix()}")
        else:
            answer = send(upload, console, create_pr=create_pr)
            if not as_json:
                console.say(
                    f"{answer.pull_request or answer.url}: {len(answer.files)} files, compared with what is here"
                )
    finally:
        console.close()
    if as_json:
        emit(answer)
    return 0
