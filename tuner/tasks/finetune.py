"""Learn the pictures: the plain diffusion loss (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..data.sources import Source
from ..types import Loss
from .base import Task

if TYPE_CHECKING:
    from ..student import Student
    from ..types import Batch


class Finetune(Task, name="finetune"):
    """Learn the pictures of `data.images`."""

    sources: ClassVar = {"images": Source}

    def loss(self, student: Student, batch: Batch) -> Loss:
        noised = student.objective.corrupt(batch)
        losses = noised.losses(student.predict(noised, batch.text))  # (B,)
        return Loss((losses * batch.weight).sum())
