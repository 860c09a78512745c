"""The queue: `tuner` commands as jobs in a SQLite file, and one detached worker a device that runs them in turn."""

from __future__ import annotations

from . import words
from .hardware import devices
from .job import ENDED, STATES, UNFINISHED, Job
from .launch import Workers, ensure_worker
from .queue import Queue
from .reconcile import reconcile

__all__ = ["ENDED", "STATES", "UNFINISHED", "Job", "Queue", "Workers", "devices", "ensure_worker", "reconcile", "words"]
