"""The rivals: for each, the command line that trains one adapter on the comparison's terms."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .terms import ADAPTER, DRAWN_GUIDANCE, Command, Job, Terms

NEVER = 1_000_000_000
"""A checkpoint interval beyond any end."""


class Side(ABC):
    """One column of the table."""

    name: str
    about: str
    """What its row of settings is, for the table's legend."""

    @abstractmethod
    def command(self, job: Job, terms: Terms) -> Command:
        """What to start. Raises: ValueError where the terms leave this side nothing to do."""


@dataclass(frozen=True, slots=True)
class Peer(Side):
    """diffusers' `examples/dreambooth/train_dreambooth_lora.py`, validation and checkpoints off."""

    python: Path
    script: Path
    base: Path

    name = "diffusers"
    about = "train_dreambooth_lora.py, its defaults but for the common terms; no validation, no checkpoints"

    def command(self, job: Job, terms: Terms) -> Command:
        out = job.place / "out"
        told: dict[str, Any] = {
            "pretrained_model_name_or_path": self.base,
            "instance_data_dir": job.photos,
            "instance_prompt": job.instance,
            "output_dir": out,
            "resolution": terms.resolution,
            "train_batch_size": terms.batch,
            "max_train_steps": terms.steps,
            "rank": terms.rank,
            "learning_rate": terms.lr,
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
            "mixed_precision": "no",
            "checkpointing_steps": NEVER,
            "seed": job.seed,
        }
        if terms.prior:
            told |= {
                "class_prompt": job.plain,
                "class_data_dir": job.class_pictures or job.place / "class",
                "num_class_images": terms.prior,
                "prior_loss_weight": 1.0,
            }
        flags = ["--center_crop", *["--with_prior_preservation"] * bool(terms.prior)]
        words = [word for key, value in told.items() for word in (f"--{key}", str(value))]
        return Command((str(self.python), str(self.script), *words, *flags), {}, out / ADAPTER, {})


@dataclass(frozen=True, slots=True)
class Matched(Side):
    """`tuner run` with a recipe that asks for what the script does."""

    python: Path
    base: str

    name = "tuner"
    about = "tuner run, the same layers, alpha, prior weight and optimizer"

    def command(self, job: Job, terms: Terms) -> Command:
        recipe = job.place / "matched.yaml"
        argv = (str(self.python), "-m", "tuner", "run", str(recipe), "--run-dir", str(job.place / "run"))
        text = json.dumps(self.recipe(job, terms), indent=1) + "\n"  # JSON is YAML
        return Command(argv, cold_cache(job), job.place / "run" / "adapter" / ADAPTER, {recipe: text})

    def recipe(self, job: Job, terms: Terms) -> dict[str, Any]:
        data: dict[str, Any] = {
            "resolution": terms.resolution,
            "crop": "center",
            "instance": {"path": str(job.photos), "caption": job.instance},
        }
        task: dict[str, Any] = {"name": "dreambooth"}
        if terms.prior:
            task["prior_weight"] = 1.0
            data["prior"] = {"caption": job.plain, **class_pictures(job, terms)}
        return {
            "backbone": {"name": "sd15", "model": self.base},
            "adapters": [
                {"name": "lora", "rank": terms.rank, "alpha": terms.rank, "where": "attention", "init": "gaussian"}
            ],
            "task": task,
            "data": data,
            "train": {
                "steps": terms.steps,
                "batch": terms.batch,
                "lr": terms.lr,
                "schedule": "constant",
                "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-2},
                "max_grad_norm": 1.0,
                "precision": "fp32",
                "seed": job.seed,
            },
            "save": {"every": None},
        }


@dataclass(frozen=True, slots=True)
class Own(Side):
    """`tuner run dreambooth_lora --rehearse`: the shipped recipe and preset, whatever they say; samples off."""

    python: Path
    base: str

    name = "tuner's defaults"
    about = "tuner run dreambooth_lora --rehearse: its own steps, rate, rank and number of class pictures; no samples"

    def command(self, job: Job, terms: Terms) -> Command:
        if not terms.prior:
            raise ValueError("the shipped recipe keeps its class; without class pictures leave this side out")
        told: dict[str, Any] = {
            "data.instance.path": str(job.photos),
            "data.instance.caption": job.instance,
            "data.prior.caption": job.plain,
            "train.seed": job.seed,
            "sample.every": None,
            "sample.prompts": [],
        }
        if self.base != "toybox":
            told["backbone.model"] = self.base
        if job.class_pictures:
            told |= {"data.prior.path": str(job.class_pictures), "data.prior.generate": None}
        else:
            told["data.prior.seed"] = job.seed
        words = [f"{key}={json.dumps(value)}" for key, value in told.items()]
        where = ("--rehearse", "--run-dir", str(job.place / "run"))
        argv = (str(self.python), "-m", "tuner", "run", "dreambooth_lora", *words, *where)
        return Command(argv, cold_cache(job), job.place / "run" / "adapter" / ADAPTER, {})


def class_pictures(job: Job, terms: Terms) -> dict[str, Any]:
    """Where a matched recipe's class pictures come from: the common folder, or as many drawn by tuner."""
    if job.class_pictures:
        return {"path": str(job.class_pictures)}
    return {"generate": terms.prior, "steps": terms.drawn_steps, "guidance": DRAWN_GUIDANCE, "seed": job.seed}


def cold_cache(job: Job) -> dict[str, str]:
    """A cache of this job's own, so that nothing was encoded or drawn before."""
    return {"TUNER_CACHE": str(job.place / "cache")}
