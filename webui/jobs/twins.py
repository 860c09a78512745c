"""Of two jobs that would do the same, one is enough: a button that is clicked twice gets the job of the first click."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .job import Job, moved

if TYPE_CHECKING:
    import sqlite3

    from webui.workspace import Workspace

ONCE = frozenset({"package", "eval", "publish", "grid"})
"""Kinds that make the same from the same words.

The words name all that counts: the run, the save, the prompts, the seed (a fixed one where none is given), the
repository. A second job would pack, measure, draw or send the same once more, while the first is still at it.
Not trainings (run, quickstart): each begins in a run directory of its own, so two are two runs, and a second one for
the same directory is refused, not merged. Not kinds that nobody vouched for here.
"""


def of(connection: sqlite3.Connection, workspace: Workspace, job: Job) -> Job | None:
    """The unfinished job that does what `job` would; None where none does, or it was asked to stop.

    The words are compared without what names a job's own folder, which is another for each.
    """
    if job.kind not in ONCE:
        return None
    found = connection.execute(
        "SELECT * FROM job WHERE kind=? AND run IS ? AND asked IS NULL AND state IN ('queued', 'running') "
        "ORDER BY created, rowid",
        (job.kind, job.run),
    ).fetchall()
    wanted = _bare(workspace, job)
    return next((other for row in found if _bare(workspace, other := Job.from_row(row)) == wanted), None)


def _bare(workspace: Workspace, job: Job) -> list[str]:
    return moved(job.words, workspace.jobs / job.id, workspace.jobs)
