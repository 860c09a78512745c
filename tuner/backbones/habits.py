"""How a family of models is drawn where nobody says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Habits:
    """Settings of a sampler that suit a base."""

    steps: int = 25
    """Sampler steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale; 1 or less is none."""
