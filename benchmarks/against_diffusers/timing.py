"""One command, started in a process of its own and timed from there until it has returned."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .terms import Command

LAST_LINES = 25


class Failed(Exception):
    """A command that did not leave its adapter; the text says how it ended and its last words."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What a command took."""

    wall_s: float
    """Seconds from the command until it returned, its file saved and loaded back, as both tools do."""
    cpu_s: float
    """Seconds of processor time, user and system: little moved by what else the machine does."""
    load: float
    """Processes that wanted a core when it began (1 minute mean)."""


def environment(threads: int, home: Path) -> dict[str, str]:
    """What both tools get: the same threads, no network, no settings of the user's."""
    kept = {key: value for key, value in os.environ.items() if key in {"PATH", "LANG", "TMPDIR"}}
    return kept | {
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }


def run(command: Command, env: Mapping[str, str], log: Path, limit_s: float) -> Timed:
    """Do it, everything it says in `log`. Its whole process group ends with it, and with us.

    Raises: Failed.
    """
    for path, text in command.files.items():
        path.write_text(text, encoding="utf-8")
    load, before = os.getloadavg()[0], _cpu()
    with log.open("wb") as said:
        said.write(f"$ {shlex.join(command.argv)}\n".encode())
        said.flush()
        start = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**env, **command.env},
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"not done after {limit_s:g} s\n{last_words(log)}") from error
        finally:
            wall = time.perf_counter() - start
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code:
        raise Failed(f"exit status {code}\n{last_words(log)}")
    if not command.adapter.is_file():
        raise Failed(f"it said that all was well, and left no {command.adapter.name}\n{last_words(log)}")
    return Timed(round(wall, 3), round(_cpu() - before, 3), round(load, 2))


def last_words(log: Path) -> str:
    """The last lines of a log; of a bar that rewrote its line, the last state."""
    text = log.read_bytes().decode("utf-8", "replace")
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    return "\n".join(lines[-LAST_LINES:])


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
