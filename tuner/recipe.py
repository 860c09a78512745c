"""The whole description of a run as one frozen value. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, create_model, model_validator

from .adapters import Adapter
from .backbones import Backbone
from .data.sources import Source, as_list, sources_of
from .objectives import Objective
from .parts import NO_EFFECT, Part, Problem, problems_error
from .sampling import SAMPLERS
from .sections import DataOptions, Log, Sample, Save, Train, Validation
from .tasks import Task


def _data_section() -> type[DataOptions]:
    """The data section: the options, and a key for each role that some task reads."""
    roles: dict[str, type[Source]] = {}
    for task in Task.family.values():
        for name, kind in task.sources.items():  # type: ignore[attr-defined]
            if roles.setdefault(name, kind) is not kind:
                raise TypeError(f"two tasks give data.{name} different types")
    fields: dict[str, Any] = {
        name: (sources_of(kind) | None, Field(default=None, description=(kind.__doc__ or "").strip().splitlines()[0]))
        for name, kind in roles.items()
    }
    return create_model("Data", __base__=DataOptions, __doc__=DataOptions.__doc__, **fields)


if TYPE_CHECKING:
    Data = DataOptions
else:
    Data = _data_section()


class Recipe(Part):
    """A run: what is trained, on what, how, and what is kept of it."""

    backbone: Backbone
    """The pretrained model."""
    adapters: Annotated[tuple[Adapter, ...], Field(min_length=1), BeforeValidator(as_list)]
    """What is trained and saved."""
    task: Task
    """Which examples go together and how their losses combine."""
    objective: Objective | None = None
    """Noise levels, target and weights; null takes the backbone's own."""
    data: Data
    """Pictures and captions."""
    train: Train
    """Length, learning rate, precision."""
    sample: Sample = Sample()
    """Pictures drawn while training."""
    validation: Validation | None = None
    """Loss on held-out pictures; null measures none."""
    save: Save = Save()
    """Checkpoints and files."""
    log: Log = Log()
    """Metrics."""

    @property
    def sources(self) -> dict[str, tuple[Source, ...]]:
        """The data section's sources by key; only keys that are given."""
        names = [name for name in type(self.data).model_fields if name not in DataOptions.model_fields]
        return {name: given for name in names if (given := getattr(self.data, name))}

    @property
    def bound_objective(self) -> Objective:
        """The objective that the run uses."""
        return self.objective or self.backbone.objective()

    @property
    def length_matters(self) -> str:
        """Why a run of this recipe cannot be made longer once it began; empty where it can."""
        if self.train.schedule.needs_total:
            return f"its learning rate follows a {self.train.schedule.key} schedule over the whole run"
        pivots = [adapter.key for adapter in self.adapters if adapter.needs_total()]
        return f"the pivot of its {pivots[0]} lies at a share of the whole run" if pivots else ""

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        problems = [
            *self.task.problems(self.sources),
            *self.backbone.problems(self),
            *(problem for adapter in self.adapters for problem in adapter.problems(self)),
            *self.train.optimizer.problems(self),
            *self._text_problems(),
            *self._validation_problems(),
            *self._objective_problems(),
        ]
        if problems:
            raise problems_error(problems)
        return self

    def _text_problems(self) -> Sequence[Problem]:
        if self.data.encoder_dropout and len(self.backbone.text_components) < 2:
            text = f"{self.backbone.key} has one text encoder, which cannot be left out; there is caption_dropout"
            return [("data.encoder_dropout", text, "value_error")]
        trains_text = any(adapter.trains_text() for adapter in self.adapters)
        first = self.sources.get(next(iter(self.task.sources)), ())
        if not trains_text and self.data.caption_dropout == 1 and any(s.caption for s in first):
            return [("data.caption_dropout", "1 drops every caption, so captions have no effect", "value_error")]
        return []

    def _validation_problems(self) -> Sequence[Problem]:
        if self.validation and self.task.unmeasured:
            return [("validation", f"task {self.task.key} has none: {self.task.unmeasured}", "value_error")]
        held = (self.validation and self.validation.images) or ()
        if self.data.caption_dropout == 1 and any(source.caption for source in held):
            text = "has no effect with data.caption_dropout: 1, where the model sees no caption"
            return [(f"validation.images.{i}.caption", text, NO_EFFECT) for i, s in enumerate(held) if s.caption]
        return []

    def _objective_problems(self) -> Sequence[Problem]:
        """A base goes on with the objective that it was pretrained with, and is drawn with that one's samplers."""
        own, wrong = self.backbone.default_objective, []
        if self.objective is not None and self.objective.key != own:
            text = f"{self.backbone.key} was pretrained with {own}, so {self.objective.key} does not fit it; take {own}"
            wrong.append(("objective", text, "value_error"))
        chosen, there = self.sample.scheduler, SAMPLERS[own]
        if chosen not in ("auto", *there):
            text = f"{chosen} draws no {own} base such as {self.backbone.key}; there is {', '.join(there)}"
            wrong.append(("sample.scheduler", text, "value_error"))
        return wrong
