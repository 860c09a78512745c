"""Diffusion-DPO (Wallace et al. 2023): learn which picture of a pair is preferred, and stay near the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ..data.sources import CHOSEN, REJECTED, PairSource
from ..types import Loss, Role
from .base import Sources, Task

if TYPE_CHECKING:
    from ..student import Student
    from ..types import Batch


class DPO(Task, name="dpo"):
    """Prefer the chosen picture of each pair in `data.pairs` to the rejected one."""

    sources: ClassVar = {"pairs": PairSource}
    rehearsal = {"train.lr": 5e-4, "train.steps": 80}  # it stops at no goal: more takes the pictures apart
    unmeasured: ClassVar = (
        "a preference makes neither picture of a pair easier to denoise, so their loss would call the wrong checkpoint "
        "the best; look at accuracy and at the samples"
    )

    beta: float = Field(default=2000.0, gt=0, le=1e6)  # Wallace et al. 2023, sec. 5.1, for Stable Diffusion 1.5
    """How strongly a pair is heeded before the model counts as having left the one it started from: a larger beta stays
    nearer to it. The loss is -log sigmoid(-beta / 2 * difference), the squared errors being means over a picture's
    latents, as in the authors' code; diffusers' example leaves out the half, so its 2500 is 5000 here."""

    def roles(self, data: Sources) -> tuple[Role, ...]:
        return Role(CHOSEN), Role(REJECTED, beside=CHOSEN)

    def logged(self, roles: Sequence[Role]) -> tuple[str, ...]:
        return "accuracy", f"loss_{CHOSEN}", f"loss_{REJECTED}"

    def needs_teacher(self, data: Sources) -> bool:
        return True

    def loss(self, student: Student, batch: Batch) -> Loss:
        """Wallace et al. 2023, eq. 14, with beta * T written as beta / 2, and the objective's weight as omega.

        The error is that of what the denoiser predicts: epsilon, v, or a flow's velocity.
        """
        from torch.nn.functional import logsigmoid

        noised = student.objective.corrupt(batch)
        now = batch.by_role(noised.losses(student.predict(noised, batch.text)))  # (units,) each
        with student.reference():
            before = batch.by_role(noised.losses(student.predict(noised, batch.text)))
        weight = batch.by_role(batch.weight)[CHOSEN]
        # By how much more the chosen picture's error fell than the rejected one's; > 0 where the pair is told apart.
        margin = (before[CHOSEN] - now[CHOSEN]) - (before[REJECTED] - now[REJECTED])
        parts = ((margin > 0).to(weight.dtype), now[CHOSEN], now[REJECTED])
        logged = zip(self.logged(batch.roles), parts, strict=True)
        return Loss(
            -(logsigmoid(self.beta / 2 * margin) * weight).sum(),
            {name: (values.detach() * weight).sum() for name, values in logged},
        )
