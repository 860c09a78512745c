"""`python -m webui.jobs.starter WORKSPACE JOB [PROGRAM...]`: the process that becomes a job.

It writes its own pid into the job's row and then turns into the command, so that a job has a process exactly where the
row names one. However often workers are killed and a job is tried again, the row takes one pid only: whoever comes
second, or after the job was cancelled, leaves without doing anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import sign
from .database import writing
from .job import LOG, RESULT, Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from webui.workspace import Workspace

PROGRAM = (sys.executable, "-P", "-m", "tuner")
"""`-P`: nothing in the working directory, which is the workspace, can stand in for a module."""


def main(arguments: Sequence[str]) -> int:
    """Become the job, if it is still to be had."""
    from webui.workspace import Workspace

    root, name, *program = arguments
    workspace = Workspace(Path(root))
    job = claim(workspace, name)
    if job is None:
        return 0
    folder = workspace.jobs / job.id
    sign.give(folder)
    _redirect(folder / RESULT, 1, os.O_TRUNC)
    _redirect(folder / LOG, 2, os.O_APPEND)
    words = [*(program or PROGRAM), *job.words]
    try:
        if os.name == "nt":  # there, execv would give the command another pid
            return subprocess.call(words)
        os.execv(words[0], words)
    except (OSError, ValueError) as error:
        fault = {"kind": "failed", "message": f"the command could not be started: {error}", "hint": ""}
        os.write(1, json.dumps({"error": fault}).encode())
        return 1


def claim(workspace: Workspace, name: str) -> Job | None:
    """Make this process the job's; None where it is another's, or was cancelled. Raises: StorageError, LockedError."""
    import psutil

    me = psutil.Process()
    with writing(workspace.database) as connection:
        row = connection.execute(
            "UPDATE job SET pid=?, pid_create_time=? "
            "WHERE id=? AND state='running' AND pid IS NULL AND asked IS NULL RETURNING *",
            (me.pid, me.create_time(), name),
        ).fetchone()
    return Job.from_row(row) if row is not None else None


def _redirect(path: Path, descriptor: int, flag: int) -> None:
    """Let a standard stream go to a file: never a pipe, which stops the writer where nobody reads."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    os.dup2(opened, descriptor)
    os.close(opened)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
