"""The training signal: which examples go together and how their losses combine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..data.sources import Source
from ..parts import NO_EFFECT, Choice, Problem
from ..types import Role

if TYPE_CHECKING:
    from ..student import Student
    from ..types import Batch, Loss

Sources = Mapping[str, Sequence[Source]]
"""The data section's sources by key."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing that a rare word in a caption names."""

    key: str
    """Of its caption in the recipe."""
    caption: str
    plain: str = ""
    """The same sentence of any other thing of its class; '' where the recipe has none."""


class Task(Choice):
    """Roles and loss. The first role's units set the length of an epoch; the others cycle in their own order."""

    sources: ClassVar[Mapping[str, type[Source]]]
    """Keys of the data section that this task reads, and what each holds. The first is required."""
    rehearsal: ClassVar[Mapping[str, float]] = {}
    """What `--rehearse` sets at most, by key path, such as a learning rate; see `Backbone.rehearsal`."""
    unmeasured: ClassVar[str] = ""
    """Why a loss on held-out pictures says nothing of what this task teaches; empty where it does."""

    def logged(self, roles: Sequence[Role]) -> tuple[str, ...]:
        """Names of the numbers that `loss` gives beside the total, as they are logged."""
        return ()

    def subjects(self, data: Sources) -> Sequence[Subject]:
        """What is learned by a name of its own; empty where captions say it all."""
        return ()

    def needs_teacher(self, data: Sources) -> bool:
        """Whether `loss` asks for the model as it was."""
        return False

    def roles(self, data: Sources) -> tuple[Role, ...]:
        """The roles of a unit, given the data section's sources."""
        return tuple(Role(name) for name in self.sources if data.get(name))

    def problems(self, data: Sources) -> list[Problem]:
        """Everything that this task cannot use, lacks, or that would have no effect."""
        first = next(iter(self.sources))
        wrong = [
            (f"data.{name}", f"has no effect on task {self.key}, which reads {', '.join(self.sources)}", NO_EFFECT)
            for name in data
            if data[name] and name not in self.sources
        ]
        if not data.get(first):
            wrong.append(("data", f"task {self.key} needs data.{first}", "missing"))
        return wrong

    @abstractmethod
    def loss(self, student: Student, batch: Batch) -> Loss:
        """The loss of one micro-batch: a pure function of its arguments and the weights.

        For each role the sum of `batch.weight` x loss; the roles combined as published.
        """
