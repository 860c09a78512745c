"""What each optimizer teaches the toybox of one subject, and what a step of it costs.

    python benchmarks/optimizers.py OUT

The tables of docs/optimizers.md. Several minutes of one core.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

import tuner
from tuner.optim.optimizers import Optimizer
from tuner.toybox import world
from tuner.types import ParamGroup

SUBJECT, PHOTOS, HELD_OUT, STEPS = 601, 6, 4, 120
CORRECTED = {"name": "prodigy", "use_bias_correction": True, "safeguard_warmup": True, "weight_decay": 0.01}
LESSONS = {
    "adamw": {},
    "adamw, cosine": {"train.schedule": "cosine"},
    "adamw, rex": {"train.schedule": "rex"},
    "adafactor": {"train.optimizer": "adafactor"},
    "lion": {"train.optimizer": "lion"},
    "schedule_free": {"train.optimizer": "schedule_free"},
    "schedule_free, 6e-3": {"train.optimizer": "schedule_free", "train.lr": 6e-3},
    "prodigy": {"train.optimizer": "prodigy"},
    "prodigy, cosine": {"train.optimizer": "prodigy", "train.schedule": "cosine"},
    "prodigy corrected": {"train.optimizer": CORRECTED},
    "prodigy corrected, cosine": {"train.optimizer": CORRECTED, "train.schedule": "cosine"},
}
LORA = [shape for side in [320] * 40 + [640] * 40 + [1280] * 48 for shape in ((16, side), (side, 16))]
SMALL = [(2, 32), (32, 2)] * 128


def photos(place: Path) -> str:
    """Put the subject's photos into `train` and `held`; gives the caption."""
    subject = world.Subject.make(SUBJECT)
    for number, picture in enumerate(subject.photos(PHOTOS + HELD_OUT)):
        folder = place / ("train" if number < PHOTOS else "held")
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
    return f"a photo of sks {subject.class_name}"


def taught(place: Path, name: str, changes: dict, caption: str) -> str:
    """Train, and tell the validation losses and what Prodigy found."""
    told = {
        "data.images.path": str(place / "train"),
        "data.images.caption": caption,
        "validation": {"every": STEPS // 3, "images": {"path": str(place / "held"), "caption": caption}},
        "train.steps": STEPS,
        "train.batch": 2,
        "train.schedule": "constant",
        "sample.every": None,
        "sample.prompts": [],
        "save.every": None,
        **changes,
    }
    recipe = tuner.load_recipe("lora", [f"{key}={json.dumps(value)}" for key, value in told.items()], rehearse=True)
    run = tuner.run(recipe, run_dir=place / name.replace(", ", "-").replace(" ", "-"), new=True).run_dir
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = ", ".join(f"{row['value']:.4f}" for row in rows if row["name"] == "validation_loss")
    found = [f"{row['value']:.1e}" for row in rows if row["name"] == "effective_lr"]
    return f"| {name} | {recipe.train.lr:g} | {losses} | {' '.join(found)} |"


def cost(name: str, shapes: list[tuple[int, int]]) -> float:
    """Milliseconds of processor time that a step takes, the least of six."""
    own = {str(i): nn.Parameter(torch.randn(shape) * 0.01) for i, shape in enumerate(shapes)}
    optimizer = Optimizer.read(name).build([ParamGroup("all", own)], 1e-4)
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    for p in own.values():
        p.grad = torch.randn_like(p)
    spent = []
    for _ in range(8):
        began = time.process_time()
        optimizer.step()
        spent.append(time.process_time() - began)
    return min(spent[2:]) * 1e3


def main(place: Path) -> None:
    torch.set_num_threads(1)
    for name in ("adamw", "adafactor", "lion", "schedule_free", "prodigy"):
        print(f"| {name} | {cost(name, LORA):.1f} ms | {cost(name, SMALL):.1f} ms |", flush=True)
    caption = photos(place)
    for name, changes in LESSONS.items():
        print(taught(place, name, changes, caption), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
