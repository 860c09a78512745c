"""What this machine has, found out without importing torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..sections import Train


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run will compute."""

    kind: str
    """cuda, mps or cpu."""
    name: str
    """For people."""
    memory: int | None
    """Bytes of the device's memory; None where nothing here can tell."""
    itemsize: int
    """Bytes of a frozen weight there: 2 or 4."""

    @property
    def shared(self) -> bool:
        """Whether the device computes in main memory."""
        return self.kind != "cuda"


def find_machine(train: Train) -> Machine:
    """The machine that `train.device` and `train.precision` will find; the engine asks torch, which knows better."""
    gpu = find_gpu() if train.device in ("auto", "cuda") else None
    if gpu is not None or train.device == "cuda":
        name, total = gpu or ("a CUDA device", None)
        return Machine("cuda", name, total, 4 if train.precision == "fp32" else 2)
    itemsize = 4 if train.precision in ("auto", "fp32") else 2
    kind = "mps" if train.device == "mps" or (train.device == "auto" and sys.platform == "darwin") else "cpu"
    return Machine(kind, "Apple GPU" if kind == "mps" else "CPU", main_memory(), itemsize)


def find_gpu() -> tuple[str, int] | None:
    """(name, bytes) of the first GPU that `nvidia-smi` reports; None where there is none or its driver is silent."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        name, _, mebibytes = answer.stdout.strip().splitlines()[0].rpartition(",")
        return name.strip(), int(mebibytes) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def main_memory() -> int:
    """Bytes of main memory."""
    import psutil

    return psutil.virtual_memory().total
