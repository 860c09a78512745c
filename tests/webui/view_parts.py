"""Run directories made up for the views, written by the same writers as a run's own."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from tuner import atomic
from tuner.best import History, Measured
from tuner.evaluation.measures import Number
from tuner.evaluation.report import Report, Row
from tuner.lines import LineWriter, metric_rows
from tuner.rundir import RunDir
from tuner.samples import write_png
from tuner.status import Status, of_this_process, write_status

GONE_PID = 2**22 + 7
"""No process has this number here: Linux counts to 2^22 at most."""
PAYLOAD = """<script>alert(1)</script>"><img src=x onerror=alert(1)>'&\u202egnp"""

RECIPE = """\
backbone:
  name: sd15
  model: toybox
adapters:
  - name: lora
    rank: {rank}
sample:
  every: 10
  seed: 5
  prompts:
{prompts}
train:
  steps: 40
  lr: {lr}
"""


def made_run(
    path: Path,
    *,
    prompts: Sequence[str] = ("a dog", "a cup"),
    sampled: Sequence[int] = (0, 10),
    losses: Mapping[int, float] | None = None,
    rank: int = 4,
    lr: float = 1e-4,
    **status: Any,
) -> RunDir:
    """A run directory with a recipe, a status, numbers, samples and a log."""
    run = RunDir(path)
    path.mkdir(parents=True)
    lines = "".join(f"    - {json.dumps(prompt)}\n" for prompt in prompts)
    run.resolved_file.write_text(RECIPE.format(prompts=lines.rstrip("\n"), rank=rank, lr=lr))
    run.recipe_file.write_text("adapters: lora\n")
    write_status(run.status_file, made_status(path.name, **status))
    for step, loss in (losses or {10: 0.5, 20: 0.25}).items():
        measure(run, step, loss=loss, lr=lr)
    for step in sampled:
        draw(run, step, prompts)
    LineWriter(run.log_file).append(["2026-11-21T17:00:00 training: 0 of 40", "2026-11-21T17:00:09 warning: look out"])
    return run


def made_status(name: str, **fields: Any) -> Status:
    """The status of a run that this process owns, so that it counts as living."""
    known = {"state": "training", "phase": "training", "step": 20, "total": 40, "it_s": 2.0}
    return dataclasses.replace(of_this_process(name), **known | fields)


def measure(run: RunDir, step: int, **values: float) -> None:
    LineWriter(run.metrics_file).append_json(metric_rows(step, values))


def draw(run: RunDir, step: int, prompts: Sequence[str]) -> None:
    """Samples as a run leaves them: the pictures, then their list."""
    place = run.samples / str(step)
    place.mkdir(parents=True, exist_ok=True)
    for index in range(len(prompts)):
        write_png(place / f"{index}.png", Image.new("RGB", (8, 8), (step % 256, index, 0)))
    rows = [{"index": i, "prompt": prompt, "file": f"{i}.png", "step": step} for i, prompt in enumerate(prompts)]
    atomic.write(place / "index.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


METADATA = {"modelspec.title": PAYLOAD, "tuner_backbone": "sd15"}


def put_lora(folder, run_name="dog", *, metadata=None) -> None:
    """The two files of a LoRA on sd15, one layer large, with a card."""
    folder.mkdir(parents=True, exist_ok=True)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    kohya = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    write_header(
        folder / "pytorch_lora_weights.safetensors",
        {f"{layer}.lora_A.weight": [2, 4], f"{layer}.lora_B.weight": [4, 2]},
        metadata,
    )
    write_header(
        folder / f"{run_name}.safetensors",
        {f"{kohya}.lora_down.weight": [2, 4], f"{kohya}.lora_up.weight": [4, 2]},
        metadata,
    )
    (folder / "README.md").write_text(
        f"# {PAYLOAD}\n\n## In diffusers\n\n```python\nload('x')\n```\n\ntext\n\n```yaml\na: 1\n```\n"
    )
    (folder / f"{run_name}.json").write_text("{}")


def write_header(path, shapes, metadata=None) -> None:
    """A safetensors file of zeros."""
    tree, at = {"__metadata__": metadata or METADATA}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        tree[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(tree).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * at)


def put_save(run, step) -> None:
    place = run.checkpoints / str(step)
    put_lora(place / "adapter")
    (place / "manifest.json").write_text("{}")


def validate(run, **losses) -> None:
    history = History(run.validation_file, {"pictures": 2})
    for step, loss in losses.items():
        history.add(int(step[1:]), Measured(loss, (loss,) * 8))


def judged(run, step, value, **facts) -> None:
    number = Number(value, 0.1, 8, 0.03)
    rows = (
        Row("prompt fidelity", "subject in contexts", "CLIP-T", number, number, None, "higher"),
        Row("subject fidelity", "subject alone", "CLIP-I", number, Number(0.5, 0.1, 8, 0.03), number, "higher"),
        Row("subject fidelity", "subject in contexts", "DINO", number, number, number, "higher"),
    )
    known = {"base": "toybox", "prompts": "p", "asking": {"seeds": 2}, **facts}
    folder = run.path / "evaluation" / str(step) if step is not None else run.path / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps({"schema": 1, **asdict(Report(rows, known))}))


def settle(run: RunDir) -> None:
    """Let the samples' folders look as if nothing changed in them for a while."""
    then = time.time_ns() - 60 * 10**9
    for place in run.samples.iterdir():
        os.utime(place, ns=(then, then))


def texts(value: Any) -> Iterator[str]:
    """Every text of a view that a page shows: ids are what they are, and `seen` is for the next look."""
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name not in ("id", "seen"):
                yield from texts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from texts(item)
