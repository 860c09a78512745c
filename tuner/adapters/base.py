"""Which parameters train, and what is saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..parts import Choice, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..backbones import Backbone, DiffusionModel
    from ..backbones.base import Layout
    from ..draws import Draws
    from ..formats.about import About
    from ..recipe import Recipe
    from ..types import ParamGroup


@dataclass(frozen=True, slots=True)
class Count:
    """What one pattern of an adapter matches."""

    part: str
    """The component and pattern, such as `unet attention`."""
    modules: int
    parameters: int


class Adapter(Choice):
    """Hyperparameters of a way to make a frozen model trainable."""

    rehearsal: ClassVar[Mapping[str, Any]] = {}
    """What `--rehearse` sets otherwise than `Backbone.rehearsal`, by key path, such as a learning rate."""
    saves_whole_models: ClassVar[bool] = False
    """Whether its files are models, so large that those of a step go when the step's resume state goes."""

    @abstractmethod
    def attach(self, model: DiffusionModel, *, keep_base: bool, draws: Draws) -> Attachment:
        """Put trainable float32 parameters on the model.

        Args:
            keep_base: whether `Attachment.disabled` will be asked for.
            draws: source of the initial values.

        Raises: RecipeError where a pattern matches nothing.
        """

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        """What this adapter cannot do; see `Task.problems`."""
        return ()

    def trains_text(self) -> bool:
        """Whether something in a text encoder trains."""
        return False

    def words(self) -> Sequence[str]:
        """Words that it teaches; it learns nothing of pictures whose captions say none of them."""
        return ()

    def needs_total(self) -> bool:
        """Whether what it does depends on how long the run is, as a pivot does: such a run cannot be made longer."""
        return False

    def held_bytes(self, backbone: Backbone, layout: Layout) -> Mapping[str, int]:
        """By component, the bytes that it keeps one of the base's weights in, where it chooses that."""
        return {}

    def longest_side(self) -> int | None:
        """The side in pixels that it gives the denoiser positions for; None where it gives none."""
        return None

    @abstractmethod
    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        """What it will train, from the layout alone: one entry a pattern or part. Imports no torch."""


class Attachment(ABC):
    """Trainable parameters sitting on a model."""

    saves_whole_models: ClassVar[bool] = False
    """As `Adapter.saves_whole_models`."""

    @abstractmethod
    def param_groups(self) -> Sequence[ParamGroup]: ...

    def train(self, *, on: bool) -> None:
        """Switch what acts in training alone, such as dropout."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Within it the model acts as it did before `attach`."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned, float32, by parameter name; live tensors, not copies."""
        return {name: p.detach() for group in self.param_groups() for name, p in group.params.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy `state` into the parameters, bit for bit.

        Raises: ValueError where names or shapes differ.
        """
        own = self.state_dict()
        if own.keys() != state.keys():
            raise ValueError(f"names differ: {sorted(own.keys() ^ state.keys())[:4]}")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(state[name])

    @abstractmethod
    def summary(self) -> Sequence[str]:
        """One line for each pattern or part: how many modules and parameters it matched."""

    @abstractmethod
    def export(self, folder: Path, state: Mapping[str, Tensor], about: About) -> Sequence[Path]:
        """Write `state` in every format that the adapter's users need, each file once.

        Args:
            folder: an empty folder.
            state: tensors as in `state_dict` (raw or EMA weights).
            about: name, metadata and dtype of the files.
        """

    @abstractmethod
    def verify(self, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
        """Load each file back through its real loader and compare a fixed prediction with that of `state`.

        The live parameters, modes and hooks are as before when this returns.

        Raises: StorageError naming the file, the loader and the difference.
        """
