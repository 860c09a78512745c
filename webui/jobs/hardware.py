"""What jobs can compute on, found without torch, and the environment that keeps a job to its device."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

import tuner
from tuner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

NONE = "none"
"""For jobs that compute nothing, such as sending files: they need not wait for a training."""
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Variables that may hold the Hub's token."""
WITH_TOKEN = frozenset({"train", "generate", "grid", "eval", "publish"})
"""Kinds of jobs that may download a model which has to be asked for, or that send files."""
_NAME = re.compile(r"cpu|mps|none|cuda:\d{1,3}")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_DEVICE_FILES = Path("/dev")


def devices() -> tuple[str, ...]:
    """What this machine has, the fastest first: `cuda:0` ..., or `mps`; `cpu` is always the last."""
    found = [f"cuda:{index}" for index in range(len(_cards(os.environ)))]
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        found.append("mps")
    return (*found, "cpu")


def check(device: str) -> str:
    """The device, if it is one that jobs can have. Raises: UsageError."""
    if _NAME.fullmatch(device) is None or device not in (NONE, *devices()):
        raise UsageError(f"there is no device {device!r} on this machine", f"there is {', '.join(devices())}")
    return device


def environment(device: str, kind: str, base: Mapping[str, str]) -> dict[str, str]:
    """The variables of a job's process.

    A job sees one GPU, or none of them where it is to leave them alone. The Hub's token goes only to jobs that may
    need it.
    """
    env = dict(base)
    cards = _cards(base)
    if cards:  # where none was found there is nothing to hide, and what this program does not know stays usable
        index = int(device.partition(":")[2]) if device.startswith("cuda:") else None
        env[_VISIBLE] = "" if index is None or index >= len(cards) else cards[index]
    if kind not in WITH_TOKEN:
        for name in TOKENS:
            env.pop(name, None)
        env["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    return with_program(env)


def with_program(base: Mapping[str, str]) -> dict[str, str]:
    """The variables with which another working directory finds the same `tuner` and `webui`, run from source or not."""
    env = dict(base)
    home = Path(tuner.__file__).resolve().parents[1]
    if home.name not in ("site-packages", "dist-packages"):
        there = [str(Path(entry).absolute()) for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
        env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(home), *there]))
    return env


def _cards(env: Mapping[str, str]) -> list[str]:
    """What to put into CUDA_VISIBLE_DEVICES for each GPU that this process may use."""
    count = _count_by_library()
    if count is None:
        count = _count_by_files()
    present = [str(index) for index in range(count)]
    if _VISIBLE not in env:
        return present
    named = [name.strip() for name in env[_VISIBLE].split(",")]
    cards: list[str] = []
    for name in named:  # CUDA itself stops at the first that is not there
        if not name or (name.lstrip("-").isdigit() and name not in present):
            break
        cards.append(name)
    return cards if present else []


def _count_by_library() -> int | None:
    """As the driver says; None where its Python library is not installed, or there is no driver."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _count_by_files() -> int:
    """As the device files say, which the driver makes."""
    try:
        return sum(re.fullmatch(r"nvidia\d+", entry.name) is not None for entry in _DEVICE_FILES.iterdir())
    except OSError:
        return 0
