"""A job as the pages put it."""

from __future__ import annotations

import time
from typing import Any

from webui.jobs.job import Job
from webui.views import words

TONES = {"running": "live", "done": "good", "failed": "bad", "interrupted": "bad"}
STATES = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "stopped": "stopped",
    "interrupted": "interrupted",
    "cancelled": "taken out",
}


def told(job: Job) -> dict[str, Any]:
    """What a template says of a job: texts and which buttons it has."""
    since = words.ago(time.time() - (job.finished or job.started or job.created))
    state = STATES[job.state]
    doing = since if job.ended else f"{state} since {since.removesuffix(' ago')}"
    return {
        "id": job.id,
        "title": words.one_line(job.title, 200),
        "told": words.one_line(job.reason or doing, 300) if job.ended else doing,
        "state": job.state,
        "tone": TONES.get(job.state, ""),
        "word": state,
        "fault": words.one_line(job.reason, 600) if job.state in ("failed", "interrupted") else "",
        "hint": words.one_line(job.hint, 300),
    }
