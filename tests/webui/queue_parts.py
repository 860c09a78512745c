"""A queue with a stand-in for `tuner` that does as its last word says, and what the tests of the queue share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from webui.jobs import Queue, Workers
from webui.jobs.launch import holder

ACT = "import sys; exec(sys.argv[-1])"
"""The stand-in: runs the Python in its last argument."""
STAND_IN = (f"--program={sys.executable}", "--program=-c", f"--program={ACT}")
QUICK = ("--idle=0.5", "--poll=0.05", "--patience=0.6")
LONG_S = 60.0
"""Far more than anything here takes, on a machine with much else to do."""


class Nobody(Workers):
    """Starts no worker."""

    def ensure(self, device: str) -> bool:
        return False


def act(code: str, *before: str) -> tuple[str, ...]:
    """The words of a job that runs `code`."""
    return ("act", "--json", *before, "--", code)


def say(answer: object = None, *, after: float = 0.0) -> str:
    """Code that answers, after some seconds."""
    return f"import json, time; time.sleep({after}); print(json.dumps({answer!r}))"


def until(found, timeout: float = LONG_S):
    """What `found()` gives as soon as it is true."""
    deadline = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return value


def ended(queue: Queue, name: str, timeout: float = LONG_S):
    return until(lambda: (job := queue.job(name)).ended and job, timeout)


def running(queue: Queue, name: str):
    """The job, once its process has begun."""
    return until(lambda: (job := queue.job(name)).pid is not None and job)


def kill_worker(queue: Queue, device: str = "cpu", number: int = signal.SIGKILL) -> int:
    """Kill the worker that holds a device, and see it gone."""
    pid = until(lambda: holder(queue.workspace, device))
    os.kill(pid, number)
    until(lambda: holder(queue.workspace, device) != pid)
    return pid


def dismiss(workers: Workers) -> None:
    """End the workers and take note of it, so that no process of a test outlives it."""
    for process, _ in workers._started.values():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def clear(queue: Queue) -> None:
    """End what a test left behind, also one that failed: workers of its workspace first, then jobs."""
    dismiss(queue.workers)
    queue.workers = Nobody(queue.workspace)
    for device in ("cpu", "none"):
        while (pid := holder(queue.workspace, device)) is not None:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
    for job in queue.jobs(states=["running"]):
        if job.pid is not None:
            queue.kill(job.id)


def python(code: str, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Another Python with the same modules."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=Path(__file__).parents[2],
    )
