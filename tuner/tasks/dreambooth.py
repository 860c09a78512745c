"""DreamBooth (Ruiz et al. 2022): learn a subject, keep its class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ..data.sources import PriorSource, Source
from ..parts import NO_EFFECT, Problem
from ..types import Loss, Role
from .base import Sources, Subject, Task

if TYPE_CHECKING:
    from ..student import Student
    from ..types import Batch


class DreamBooth(Task, name="dreambooth"):
    """Learn the subject of `data.instance`; `data.prior` keeps its class (prior preservation)."""

    sources: ClassVar = {"instance": Source, "prior": PriorSource}

    prior_weight: float = Field(default=1.0, gt=0, le=100)  # Ruiz et al. 2022, sec. 3.2 (lambda)
    """Weight of the prior-preservation loss."""

    def roles(self, data: Sources) -> tuple[Role, ...]:
        if predicted(data):
            return Role("instance"), Role("prior", mirrors="instance")
        return super().roles(data)

    def problems(self, data: Sources) -> list[Problem]:
        wrong = super().problems(data)
        if not data.get("prior") and "prior_weight" in self.model_fields_set:
            wrong.append(("task.prior_weight", "has no effect without data.prior", NO_EFFECT))
        prior = data.get("prior") or ()
        if predicted(data) and len(prior) > 1:
            wrong.append(("data.prior", "with predict: true there is one prior, not a list", "value_error"))
        return wrong

    def logged(self, roles: Sequence[Role]) -> tuple[str, ...]:
        return tuple(f"loss_{role.name}" for role in roles) if len(roles) > 1 else ()

    def subjects(self, data: Sources) -> Sequence[Subject]:
        instances, priors = data.get("instance") or (), data.get("prior") or ()
        plain = [source.caption or "" for source in priors]
        own = len(plain) == len(instances)  # several subjects, each with its class
        return [
            Subject(
                "data.instance" + (f".{i}" if len(instances) > 1 else "") + ".caption",
                source.caption,
                plain[i] if own else next(iter(plain), ""),
            )
            for i, source in enumerate(instances)
            if source.caption
        ]

    def needs_teacher(self, data: Sources) -> bool:
        return predicted(data)

    def loss(self, student: Student, batch: Batch) -> Loss:
        noised = student.objective.corrupt(batch)
        prediction = student.predict(noised, batch.text)
        if any(role.mirrors for role in batch.roles):
            import torch

            with student.teacher():
                kept = student.predict(noised, batch.text)
            # The instance learns its noise; its mirror under the class caption learns what the base says.
            goal = torch.cat([noised.target.chunk(2)[0], kept.chunk(2)[1].to(noised.target.dtype)])
            losses = noised.losses(prediction, goal)
        else:
            losses = noised.losses(prediction)  # (B,)
        sums = {name: values.sum() for name, values in batch.by_role(losses * batch.weight).items()}
        total = sums["instance"]
        if "prior" in sums:
            total = total + self.prior_weight * sums["prior"]
        logged = zip(self.logged(batch.roles), sums.values(), strict=False)  # in the order of the roles
        return Loss(total, {name: value.detach() for name, value in logged})


def predicted(data: Sources) -> bool:
    """Whether the prior is the base's own prediction rather than pictures."""
    return any(isinstance(source, PriorSource) and source.predict for source in data.get("prior") or ())
