"""What a run taught, in numbers: is the subject learned, are prompts obeyed, is everything else as it was."""

from __future__ import annotations

from .case import Asking, Case, Changes
from .evaluate import evaluate
from .measures import Number
from .report import Report, Row

__all__ = ["Asking", "Case", "Changes", "Number", "Report", "Row", "evaluate"]
