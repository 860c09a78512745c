"""What a header says of text encoders and noise levels: kohya's names where it has some, else `tuner_*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEXT = ("t5", "t5_length")
"""Facts without which prompts would be read otherwise than in training."""
PARTS = ("levels", "shift", "weighting")
"""Facts that are a choice with settings, as {"name": ..., setting: value}."""
SCHEMES = ("logit_normal", "mode")
"""Densities that sd-scripts names in `ss_weighting_scheme`. What it weighs on top of them, `tuner_weighting` says of
our files."""


def text_fields(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How prompts were read, for whoever draws with the adapter."""
    return {f"tuner_{name}": facts.get(name) for name in TEXT}


def level_fields(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Which noise levels were trained; None for what these facts lack.

    `ss_logit_mean` is there at 0 alone: versions of sd-scripts read its sign in opposite ways.
    """
    levels, shift = (facts.get(name) or {} for name in ("levels", "shift"))
    named = levels.get("name") in SCHEMES
    return {
        **{f"tuner_{name}": facts.get(name) for name in PARTS},
        "ss_weighting_scheme": levels["name"] if named else None,
        "ss_logit_mean": 0.0 if levels.get("mean") == 0 else None,
        "ss_logit_std": levels.get("std"),
        "ss_mode_scale": levels.get("scale"),
        "ss_discrete_flow_shift": shift.get("value"),
    }


def in_words(part: Mapping[str, Any]) -> str:
    """A choice with its settings: `logit_normal (mean 0, std 1)`."""
    settings = ", ".join(f"{name} {value:g}" for name, value in part.items() if isinstance(value, int | float))
    return f"{part.get('name')} ({settings})" if settings else str(part.get("name"))
