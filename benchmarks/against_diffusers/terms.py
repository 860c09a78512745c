"""What both tools are told alike, and what one training is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DRAWN_STEPS = 50
"""Sampler steps of the script's class pictures: the pipeline's default, which no option of it changes."""
DRAWN_GUIDANCE = 7.5
"""Guidance of a class picture: again the pipeline's default."""
ADAPTER = "pytorch_lora_weights.safetensors"
"""The file that both tools leave."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings that the comparison fixes."""

    steps: int
    """Optimizer steps."""
    rank: int
    """Rank of the LoRA on the denoiser's attention; alpha is the same number."""
    batch: int
    """Instance pictures a step; as many class pictures come with them."""
    lr: float
    """Constant learning rate of AdamW."""
    prior: int
    """Class pictures for prior preservation at weight 1; 0 trains without."""
    resolution: int
    """Side in pixels that training sees."""
    threads: int
    """OMP_NUM_THREADS."""
    drawn_steps: int = DRAWN_STEPS
    """Sampler steps of the class pictures that the matched side draws; the script always takes DRAWN_STEPS."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training to be done."""

    place: Path
    """Fresh folder for everything that the tool writes."""
    photos: Path
    instance: str
    """Caption of the photos."""
    plain: str
    """Caption of the class pictures."""
    seed: int
    class_pictures: Path | None = None
    """A folder that holds all of `Terms.prior`; None lets the tool draw its own."""


@dataclass(frozen=True, slots=True)
class Command:
    """How one tool does one job."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    """What the environment gets beside what both get."""
    adapter: Path
    """The file that has to be there in the end."""
    files: Mapping[Path, str]
    """Texts that have to be there before it starts, such as a recipe."""
