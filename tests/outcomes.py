"""Runs that saved something: written by hand for what only looks at files, trained for what draws."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

CARD = "---\nlicense: creativeml-openrail-m\nlibrary_name: diffusers\ntags:\n- lora\n---\n\n# A dog\n"
PREFIX = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def saved(folder: Path, name: str = "dog", *, card: str = CARD) -> Path:
    """An adapter folder with the files of a LoRA, made without torch."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    down, up = rng.standard_normal((4, 320), "f4"), rng.standard_normal((320, 4), "f4")
    save_file(
        {f"{PREFIX}.lora_A.weight": down, f"{PREFIX}.lora_B.weight": up}, folder / "pytorch_lora_weights.safetensors"
    )
    keys = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up, f"{KOHYA}.alpha": np.float32(4)}
    told = {"modelspec.trigger_phrase": "sks dog", "tuner_base": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
    save_file({key: np.asarray(value) for key, value in keys.items()}, folder / f"{name}.safetensors", metadata=told)
    (folder / f"{name}.json").write_text('{"activation text": "sks dog"}')
    (folder / f"{name}.png").write_bytes(b"\x89PNG drawn elsewhere")
    (folder / "README.md").write_text(card)
    return folder


def by_hand(run: Path, steps: tuple[int, ...] = (20, 40), *, card: str = CARD) -> Path:
    """A finished run as far as its files tell."""
    run.mkdir(parents=True)
    (run / "resolved.yaml").write_text("{}\n")
    for step in steps:
        saved(run / "checkpoints" / str(step) / "adapter", run.name, card=card)
    saved(run / "adapter", run.name, card=card)
    return run


WORD = {"name": "textual_inversion", "token": "<toy>", "init": "dog"}
ADAPTERS: dict[str, list[Any]] = {
    "lora": [{"name": "lora", "rank": 2, "text_encoder_lr": 5e-3}],
    "hypernetwork": ["hypernetwork"],
    "word": [WORD],
    "pivotal": [WORD, {"name": "lora", "rank": 2}],
    "full": ["full"],
}


@cache
def trained(kind: str = "lora") -> Path:
    """A run of two hasty steps on the toybox, saved after each. Read it, do not change it."""
    import tuner
    from tuner import toybox
    from tuner.recipe import Recipe

    recipe = Recipe.model_validate(
        {
            "backbone": {"name": "sd15", "model": "toybox"},
            "adapters": ADAPTERS[kind],
            "task": "finetune",
            "data": {
                "resolution": 32,
                "bucket_step": 16,
                "images": {"path": str(toybox.pictures()), "caption": "a photo of <toy>"},
            },
            "train": {"steps": 2, "batch": 2, "lr": 5e-3, "device": "cpu", "precision": "fp32"},
            "sample": {"prompts": []},
            "save": {"every": 1, "keep": 10},
        }
    )
    place = Path(tempfile.mkdtemp(prefix="outcome-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return tuner.run(recipe, run_dir=place / kind).run_dir
