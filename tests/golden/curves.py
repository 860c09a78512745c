"""The runs whose losses are written down: one a recipe shape, 20 steps on the toybox, float32, one thread."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEPS = 20

BASE: dict[str, Any] = {
    "backbone": {"name": "sd15", "model": "toybox"},
    "adapters": [{"name": "lora", "rank": 4}],
    "train": {"steps": STEPS, "lr": 1e-3, "batch": 2, "precision": "fp32", "device": "cpu", "seed": 7},
    "save": {"every": None},
    "log": {"every": 1},
    "sample": {"every": None},
}
SUBJECT = {"caption": "a photo of sks dog"}
CLASS = "a photo of a dog"
WORD = {"name": "textual_inversion", "token": "<thing>", "init": "dog", "vectors": 2}
SIZES = {"resolution": 32, "bucket_step": 8}

CURVES: dict[str, dict[str, Any]] = {
    "lora_finetune": {"task": "finetune", "data": {**SIZES, "images": SUBJECT}},
    "lora_dreambooth_prior": {
        "task": "dreambooth",
        "data": {**SIZES, "instance": SUBJECT, "prior": {"caption": CLASS, "generate": 4, "steps": 4}},
    },
    "lora_prior_by_prediction": {
        "task": "dreambooth",
        "data": {**SIZES, "instance": SUBJECT, "prior": {"caption": CLASS, "predict": True}},
    },
    "lora_min_snr": {
        "task": "finetune",
        "data": {**SIZES, "images": SUBJECT},
        "objective": {"name": "ddpm", "min_snr_gamma": 5.0},
    },
    "lora_text_encoder_everything": {
        "adapters": [{"name": "lora", "rank": 4, "dropout": 0.1, "text_encoder_lr": 5e-4}],
        "task": "finetune",
        "data": {**SIZES, "images": SUBJECT, "flip": True, "caption_dropout": 0.2},
        "objective": {"name": "ddpm", "noise_offset": 0.05, "input_perturbation": 0.1},
        "train": {**BASE["train"], "accumulate": 2, "schedule": {"name": "cosine", "warmup": 4}},
    },
    "full_finetune": {
        "adapters": ["full"],
        "task": "finetune",
        "data": {**SIZES, "images": SUBJECT},
        "train": {**BASE["train"], "lr": 1e-4},
    },
    "textual_inversion": {
        "adapters": [WORD],
        "task": "dreambooth",
        "data": {**SIZES, "instance": {"caption": "<thing>", "templates": "object"}},
    },
    "hypernetwork": {"adapters": ["hypernetwork"], "task": "finetune", "data": {**SIZES, "images": SUBJECT}},
    "pivotal_dreambooth_prior": {
        "adapters": [{**WORD, "until": 0.5}, {"name": "lora", "rank": 4}],
        "task": "dreambooth",
        "data": {
            **SIZES,
            "instance": {"caption": "a photo of <thing>"},
            "prior": {"caption": CLASS, "generate": 4, "steps": 4},
        },
    },
    "lora_dpo": {
        "task": {"name": "dpo", "beta": 2000},
        "data": {**SIZES, "pairs": {"caption": "a photo of a dog"}},
    },
    "sd35_lora_dreambooth_prior": {
        "backbone": {"name": "sd35", "model": "toybox"},
        "task": "dreambooth",
        "data": {
            "resolution": 32,
            "bucket_step": 16,
            "instance": SUBJECT,
            "prior": {"caption": CLASS, "generate": 4, "steps": 4},
        },
    },
}


def tree(name: str) -> dict[str, Any]:
    """The recipe of a curve."""
    from photos import paired, shaped

    found = json.loads(json.dumps({**BASE, **CURVES[name]}))
    first = next(role for role in ("images", "instance", "pairs") if role in found["data"])
    found["data"][first]["path"] = str(paired() if first == "pairs" else shaped())
    return found


def losses(name: str) -> list[float]:
    """Train a curve's recipe anew and give the loss of each step."""
    import torch

    from tuner import engine
    from tuner.adapters.lora import LoRAAttachment
    from tuner.recipe import Recipe

    threads, verify = torch.get_num_threads(), LoRAAttachment.verify
    torch.set_num_threads(1)
    LoRAAttachment.verify = lambda self, files, state: None  # takes longer than the training; proved elsewhere
    try:
        with tempfile.TemporaryDirectory() as folder:
            engine.run(Recipe.model_validate(tree(name)), run_dir=Path(folder) / "run")
            rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    finally:
        torch.set_num_threads(threads)
        LoRAAttachment.verify = verify
    return [row["value"] for row in sorted(rows, key=lambda row: row["step"]) if row["name"] == "loss"]


def read(name: str) -> list[float]:
    """The losses that are written down."""
    lines = [line.split() for line in (HERE / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
    return [float(loss) for _, loss in lines]
