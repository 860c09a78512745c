"""What looks at a recipe answers at once: no heavy library is imported, and little time goes by."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "gradio")
SCRIPT = f"""
import sys
from tuner.cli import call
code = call(sys.argv[1:])
found = [name for name in {HEAVY!r} if name in sys.modules]
print("heavy:", *found, file=sys.stderr)
sys.exit(code)
"""
COMMANDS = [
    [],
    ["--help"],
    ["run", "--help"],
    ["ui", "--help"],
    ["ls", "--json"],
    ["cat", "lora"],
    ["token"],
    ["show", "--rehearse"],
    ["schema"],
    ["check", "--rehearse"],
    ["plan", "--rehearse"],
    ["runs", "."],
    ["cache", "ls"],
    ["dataset", "ls", "--in", "."],
    ["doctor"],
]


def quick(words, cwd):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_heavy_import(words, tmp_path):
    done = quick(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy:", done.stderr


def test_inspect_imports_nothing_heavy(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    prefix = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{prefix}.lora_A.weight": np.zeros((4, 320), "f4"), f"{prefix}.lora_B.weight": np.zeros((320, 4), "f4")}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    done = quick(["inspect", str(tmp_path), "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize(
    ("words", "seconds"), [(["--help"], 0.45), (["check", "--rehearse"], 0.7)], ids=["help", "check"]
)
def test_answers_at_once(words, seconds, tmp_path):
    """Processor time of the best of five: the wall's clock would measure what else the machine does."""
    command = [sys.executable, "-m", "tuner", *words]

    def spent():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, cwd=tmp_path, check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(spent() for _ in range(5)) < seconds
