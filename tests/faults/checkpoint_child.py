"""Saves one checkpoint and rotates two; the process that the crash tests kill. No torch, so that it starts at once.

python checkpoint_child.py FOLDER STEP [VALUE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors import numpy as files

from tuner import atomic, checkpoint
from tuner.errors import StorageError


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


# The same writer underneath (safetensors' own), the same system calls, other tensors.
WITHOUT_TORCH = {
    "write_tensors": lambda path, tensors: files.save_file(dict(tensors), path),
    "read_tensors": files.load_file,
    "same_bits": same_bits,
}


def state(step, value):
    weights = np.full((64, 8), value, np.float32)
    return checkpoint.State(step, {"adapter.0": {"w": weights}, "optimizer": {"m": weights + 1}}, {"value": value})


def save(folder, step, value):
    checkpoint.save(folder, state(step, value), keep=2)
    with checkpoint.add_folder(folder, step, "adapter") as place:
        (place / "a.safetensors").write_bytes(b"adapter")
    atomic.write(folder.parent / "status.json", "{}")


if __name__ == "__main__":
    for name, function in WITHOUT_TORCH.items():
        setattr(checkpoint, name, function)
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    (folder.parent / "ready").touch()  # from this call on, every system call is one of a save
    try:
        save(folder, step, float(sys.argv[3]) if len(sys.argv) > 3 else float(step))
    except StorageError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
