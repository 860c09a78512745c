"""Whether this machine can train: versions, devices, disk, the Hub. Without `deep` nothing heavy is imported."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "pillow",
)
PROBE = """
import json, torch
found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
found["threads"] = torch.get_num_threads()
found["names"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps(found))
"""
"""Run in a process of its own, so that a broken torch cannot take this one down."""
LITTLE = 5 * 10**9
"""Less free disk than this is worth a word, in bytes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Literal["fine", "note", "fault"]
    text: str
    hint: str = ""
    """What to do about it."""


def examine(*, deep: bool = False) -> list[Finding]:
    """Look at everything."""
    return [*versions(), *torchvision(), *devices(deep), *disk(), *hub(), *(imports() if deep else ())]


def versions() -> Iterator[Finding]:
    """Python and the packages that do the work, against the ranges that this version of tuner was made for."""
    from . import __version__

    here = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    hint = "" if fits else "install Python 3.11, 3.12 or 3.13"
    yield Finding("python", "fine" if fits else "fault", f"{here}, {platform.system()} {platform.machine()}", hint)
    yield Finding("tuner", "fine", __version__)
    ranges = wanted()
    for name in NEEDED:
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "fault", "is not installed", "install tuner again; it brings this along")
            continue
        outside = name in ranges and not satisfies(found, ranges[name])
        text = f"{found}, outside {ranges[name]}" if outside else found
        hint = f"pip install '{name}{ranges[name]}'" if outside else ""
        yield Finding(name, "note" if outside else "fine", text, hint)


def wanted() -> dict[str, str]:
    """Version ranges by package, as the installed metadata of tuner states them."""
    import re

    try:
        lines = requires("diffusion-tuner") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        return {}
    matches = (re.fullmatch(r"([\w.-]+)\s*([<>=!~][^;]*)", line.strip()) for line in lines if ";" not in line)
    return {match[1].lower(): match[2].strip() for match in matches if match}


def satisfies(found: str, wanted: str) -> bool:
    """Whether a version lies in a range such as `>=2.11,<3`; compares release numbers only."""

    def release(text: str) -> tuple[int, ...]:
        parts = text.split("+")[0].split(".")
        numbers = []
        for part in parts:
            digits = "".join(c for c in part if c.isdigit()) if part[:1].isdigit() else ""
            if not digits:
                break
            numbers.append(int(digits))
        return tuple(numbers)

    here = release(found)
    for clause in wanted.split(","):
        sign, bound = clause.strip().rstrip("0123456789.*"), release(clause.strip().lstrip("<>=!~ "))
        width = max(len(here), len(bound))
        a, b = (*here, *[0] * (width - len(here))), (*bound, *[0] * (width - len(bound)))
        if not {">=": a >= b, "<": a < b, "<=": a <= b, ">": a > b, "==": a == b, "!=": a != b}.get(sign, True):
            return False
    return True


def torchvision() -> Iterator[Finding]:
    """PyPI's torchvision beside a torch build from elsewhere makes `import peft` fail with a misleading message."""
    try:
        vision, torch = version("torchvision"), version("torch")
    except PackageNotFoundError:
        return
    if vision.partition("+")[2] == torch.partition("+")[2]:
        yield Finding("torchvision", "fine", f"{vision}; tuner does not use it")
        return
    yield Finding(
        "torchvision",
        "note",
        f"{vision} is another build than torch {torch}; `import peft` may fail with `Could not import ...`",
        "pip uninstall torchvision: tuner does not use it",
    )


def devices(deep: bool) -> Iterator[Finding]:
    """What there is to compute on."""
    from .planning.disk import size
    from .planning.machine import find_gpu, main_memory

    yield Finding("memory", "fine", f"{size(main_memory())} of main memory, {os.cpu_count()} processors")
    gpu = find_gpu()
    if gpu is not None:
        yield Finding("gpu", "fine", f"{gpu[0]} with {size(gpu[1])}, by nvidia-smi")
    if deep:
        yield probe(gpu is not None)
    elif gpu is None:
        yield Finding("gpu", "note", "none by nvidia-smi; `tuner doctor --deep` asks torch", "")


def probe(gpu: bool) -> Finding:
    """What torch itself finds."""
    import json
    import subprocess

    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=180, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        said = getattr(error, "stderr", "") or str(error)
        last = said.strip().splitlines()[-1] if said.strip() else "no message"
        return Finding(
            "torch devices", "fault", f"torch does not start: {last}", "install torch again for this machine"
        )
    if found["cuda"]:
        return Finding("torch devices", "fine", ", ".join(found["names"]))
    if gpu:
        return Finding(
            "torch devices", "fault", "there is a GPU, but torch does not see it", "install a CUDA build of torch"
        )
    if found["mps"]:
        return Finding("torch devices", "fine", "Apple GPU (mps)")
    hint = "real models take hours a run here; `--rehearse` takes a minute"
    return Finding("torch devices", "note", f"the CPU alone, {found['threads']} threads", hint)


def disk() -> Iterator[Finding]:
    """Whether the cache and the working directory can be written, and what is free there."""
    import shutil

    from .cache_root import cache_root
    from .planning.disk import existing, size

    for subject, path in (("cache", cache_root()), ("working directory", Path.cwd())):
        place = existing(path)
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            hint = (
                "set TUNER_CACHE to a folder that you may write"
                if subject == "cache"
                else "go to a folder that you may write"
            )
            yield Finding(subject, "fault", f"{path} cannot be written: {error.strerror}", hint)
            continue
        free = shutil.disk_usage(place).free
        level = "note" if free < LITTLE else "fine"
        yield Finding(
            subject, level, f"{path}, {size(free)} free", "a full SD1.5 needs about 5 GB" if level == "note" else ""
        )


def hub() -> Iterator[Finding]:
    """Whether models can be fetched: a token (never shown) and the offline switches."""
    from .redact import redact

    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    in_env = [name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)]
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    if in_env:
        yield Finding("hub token", "fine", f"there is one, in {in_env[0]}")
    elif file.is_file():
        yield Finding("hub token", "fine", "there is one, on disk")
    else:
        yield Finding("hub token", "note", "none; only gated models need one", "`hf auth login` keeps one")
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if on(name)]
    if offline:
        yield Finding("hub", "note", f"{offline[0]} is set: nothing is downloaded", "unset it to fetch a model")
    elif os.environ.get("HF_ENDPOINT"):
        yield Finding("hub", "note", f"HF_ENDPOINT is {redact(os.environ['HF_ENDPOINT'])}")


def on(name: str) -> bool:
    return os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}


def imports() -> Iterator[Finding]:
    """Import what a run imports, in a process of its own."""
    import subprocess

    code = "import torch, diffusers, transformers, peft; from diffusers import StableDiffusionPipeline"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 0:
        yield Finding("imports", "fine", "torch, diffusers, transformers and peft work together")
        return
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    yield Finding("imports", "fault", last, "the versions above do not fit together; use constraints.txt")
