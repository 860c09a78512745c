"""What the queue knows of a run, put to what its directory says."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from webui.views.buttons import LABELS, Button
from webui.views.words import count, one_line

if TYPE_CHECKING:
    from webui.jobs.job import Job
    from webui.views.state import Head

TAKE_OUT = "Take it out of the queue"


def with_job(head: Head, job: Job | None, before: int) -> Head:
    """The head as a visitor should read it.

    Args:
        head: from the run's directory, which says nothing while its job waits, starts, or died before its first word.
        job: the latest training of this run, if the queue has one.
        before: how many wait in front of it.
    """
    if job is None:
        return head
    if job.state == "queued":
        said = f"It waits in the queue; {count(before, 'job')} before it." if before else "It is next in the queue."
        return _as(head, "Waiting", "idle", said, "", {"stop": TAKE_OUT})
    if head.state != "queued":
        return head
    if job.state == "running":
        return _as(head, "Starting", "live", "The program is being loaded.", "", {"stop": LABELS["stop"]})
    if job.state == "done":
        return head
    title = {"cancelled": "Taken out", "stopped": "Stopped", "failed": "Failed"}.get(job.state, "Interrupted")
    reason = one_line(job.reason, 600) or "It ended before it began."
    again = {"resume": LABELS["resume"]} if job.resumable or job.state == "cancelled" else {}
    return _as(head, title, "bad" if job.state in ("failed", "interrupted") else "idle", reason, job.hint, again)


def _as(head: Head, title: str, tone: str, said: str, hint: str, buttons: dict[str, str]) -> Head:
    made = tuple(Button(command, label, applies=True) for command, label in buttons.items())
    return dataclasses.replace(
        head, state="queued", title=title, tone=tone, said=said, hint=one_line(hint, 300), buttons=made
    )
