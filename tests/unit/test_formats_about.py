"""A recipe and the engine's facts become what the files say."""

from __future__ import annotations

from tuner.formats.about import about_run
from tuner.formats.metadata import kohya_header
from tuner.recipe import Recipe

TREE = {
    "backbone": {"name": "sd15", "model": "/home/ann/models/base"},
    "adapters": [{"name": "lora", "rank": 4, "text_encoder_lr": 5e-6}],
    "task": {"name": "dreambooth", "prior_weight": 0.5},
    "objective": {"name": "ddpm", "min_snr_gamma": 5.0},
    "data": {
        "trigger": "sks",
        "instance": {"path": "/home/ann/dog", "caption": "a photo of sks dog"},
        "prior": {"caption": "a photo of a dog", "generate": 3},
    },
    "train": {"steps": 9, "lr": 2e-4, "schedule": {"name": "cosine", "warmup": 2}, "ema": {"decay": 0.9}, "seed": 3},
    "sample": {"prompts": ["a cat", "sks in a bucket"], "negative": "blurry"},
    "save": {"dtype": "fp16", "metadata": "minimal"},
}


def test_the_recipe_s_settings_arrive():
    recipe = Recipe.model_validate(TREE)
    about = about_run(
        "run-1",
        recipe,
        facts={"step": 9, "images": 5},
        recipe_text="path: /home/ann/dog",
        prediction="v",
        weights="ema",
    )
    assert (about.name, about.dtype, about.metadata, about.family) == ("run-1", "fp16", "minimal", "sd15")
    assert (about.base, about.recipe) == ("base", "path: dog")
    assert (about.trigger, about.prompt, about.title) == ("sks", "a photo of sks dog", "sks")
    assert (about.sample_prompts, about.negative) == (("a cat", "sks in a bucket"), "blurry")
    want = {
        "lr": 2e-4,
        "text_encoder_lr": 5e-6,
        "schedule": "cosine",
        "warmup": 2,
        "optimizer": "adamw",
        "ema_decay": 0.9,
    }
    want |= {"prior_weight": 0.5, "min_snr_gamma": 5.0, "task": "dreambooth", "seed": 3, "step": 9, "images": 5}
    assert want.items() <= about.facts.items()
    assert (about.prediction, about.weights) == ("v", "ema")
    assert all(isinstance(value, str) for value in kohya_header({}, about, rank=4, alpha=4.0).values())


def test_several_concepts_have_no_one_prompt():
    tree = TREE | {
        "data": {"instance": [{"path": "a", "caption": "one"}, {"path": "b", "caption": "two"}]},
        "task": {"name": "dreambooth"},
    }
    about = about_run("r", Recipe.model_validate(tree), facts={}, recipe_text="")
    assert about.prompt is None
    assert about.title == "LoRA on base"
