"""What the form calls things, for who has not met the recipe's own words; a key that is not here is called as it is."""

from __future__ import annotations

from collections.abc import Mapping

LABELS: Mapping[str, str] = {
    "backbone": "Kind of model",
    "model": "Base model",
    "t5": "Read with T5",
    "t5_length": "Words that T5 reads (tokens)",
    "clip_skip": "Layers of CLIP to skip",
    "adapters": "What is trained",
    "adapter": "What is trained",
    "where": "Which layers",
    "rank": "Rank (how much it can learn)",
    "alpha": "Alpha (strength of the update)",
    "text_encoder_lr": "Learning rate of the text encoder",
    "init_from": "Begin as a saved adapter",
    "token": "The new word",
    "init": "What it begins as",
    "vectors": "Vectors of the word",
    "task": "Task",
    "prior_weight": "Weight of the class pictures",
    "objective": "Objective",
    "min_snr_gamma": "Min-SNR gamma",
    "resolution": "Picture size (pixels)",
    "crop": "Cropping",
    "flip": "Mirror half of the pictures",
    "trigger": "Trigger word in front of captions",
    "path": "Folder of pictures",
    "dataset": "Dataset on the Hub",
    "caption": "Caption of pictures without one",
    "own_captions": "Use the pictures' own captions",
    "templates": "Sentences around the caption",
    "generate": "Class pictures to draw",
    "predict": "Keep the base's own prediction instead",
    "prior": "Class pictures (prior preservation)",
    "instance": "Your subject",
    "images": "Your pictures",
    "pairs": "Your pairs",
    "steps": "Steps",
    "epochs": "Epochs",
    "batch": "Pictures at a time",
    "accumulate": "Batches that make a step",
    "lr": "Learning rate",
    "schedule": "Schedule of the learning rate",
    "warmup": "Warm-up steps",
    "cycles": "How many times it falls",
    "d0": "First estimate (d0)",
    "d_coef": "Multiple of the estimate (d_coef)",
    "ema": "Average of the weights (EMA)",
    "max_grad_norm": "Largest gradient",
    "every": "How often",
    "prompts": "Prompts, one a line",
    "negative": "Negative prompt",
    "scheduler": "Sampler",
    "guidance": "Guidance (CFG)",
    "size": "Size (pixels)",
    "validation": "Measure on held-out pictures",
    "hold_out": "Share that is held out",
    "keep": "Resume states kept",
    "dtype": "Precision of the files",
    "to": "Trackers",
    "beta": "Beta (how near it stays to the start)",
}

TITLES: Mapping[str, str] = {
    "backbone": "Base model",
    "adapters": "What is trained",
    "task": "Task",
    "objective": "Noise and target",
    "data": "Pictures",
    "data.instance": "Pictures of your subject",
    "data.prior": "Class pictures",
    "data.images": "Your pictures",
    "data.pairs": "Your pairs",
    "train": "Training",
    "sample": "Sample pictures",
    "validation": "Validation",
    "validation.images": "Held-out pictures",
    "save": "Saving",
    "log": "Logging",
}
"""Titles of groups."""


def label(key: str) -> str:
    """What a key is called."""
    return LABELS.get(key) or key.replace("_", " ").capitalize()


def title(key: str) -> str:
    """What a group is called."""
    return TITLES.get(key) or label(key.rpartition(".")[2])
