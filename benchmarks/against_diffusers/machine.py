"""Where and with what the comparison ran: for the table's foot, and to keep two comparisons apart."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "torchvision", "pillow")
ASK = """
import importlib.metadata as m, json, sys
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
print(json.dumps({"python": sys.version.split()[0], **{n: version(n) for n in sys.argv[1:]}}))
"""


def machine() -> str:
    """The processor, how many of it, and the system."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}"


def versions(python: Path) -> dict[str, str]:
    """The packages of an environment. Raises: subprocess.CalledProcessError, OSError where `python` is none."""
    told = subprocess.run([str(python), "-c", ASK, *PACKAGES], check=True, capture_output=True, text=True).stdout
    return {name: version for name, version in json.loads(told).items() if version}


def digest(path: Path, pattern: str = "*") -> str:
    """The first 16 digits of the sha256 of a file, or of the matching files in a folder with their names."""
    said = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(file for file in path.rglob(pattern) if file.is_file()):
        said.update(str(file.relative_to(path)).encode())
        said.update(file.read_bytes())
    return said.hexdigest()[:16]
