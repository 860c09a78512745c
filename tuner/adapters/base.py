"""Which parameters train, and what is saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..parts import Choice, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..backbones import Backbone, DiffusionModel
    from ..backbones.activations import Beside
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
            keep_base: whether `Attachment.disabled` or `Attachment.at_start` will be asked for.
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

    def initial(self) -> Path | None:
        """The saved adapter that it begins as; None begins anew.

        Raises: DataError where the recipe names one that is not there.
        """
        return None

    def initial_sha256(self) -> str | None:
        """Hash of the content of `initial`: a run that goes on must find the very same start."""
        from ..data.cache import Cache
        from ..data.identity import file_sha256

        file = self.initial()
        return None if file is None else file_sha256(file, Cache())

    def initial_problems(self, backbone: Backbone) -> Sequence[str]:
        """Why it cannot begin as `initial`, as far as that can be told without the model; imports no torch."""
        return ()

    def layer_problems(self, backbone: Backbone, layout: Layout) -> Sequence[str]:
        """What it asks of layers that are not there, as far as the layout tells; imports no torch."""
        return ()

    @abstractmethod
    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        """What it will train, from the layout alone: one entry a pattern or part. Imports no torch."""

    def layers(self, backbone: Backbone, layout: Layout) -> Collection[str] | None:
        """The denoiser's linear layers that it trains, by full name, each of which keeps its input for the gradient.

        None where all of the denoiser's weights train. Imports no torch.
        """
        return ()

    def kept_beside(self, backbone: Backbone, layout: Layout, itemsize: int) -> Beside:
        """What the denoiser's layers that it trains keep for the gradient beside their inputs. Imports no torch.

        Args:
            itemsize: bytes of a frozen weight, 2 or 4.
        """
        return {}


class Attachment(ABC):
    """Trainable parameters sitting on a model."""

    saves_whole_models: ClassVar[bool] = False
    """As `Adapter.saves_whole_models`."""

    _began: bool = False
    _start: Mapping[str, Tensor] | None = None

    @abstractmethod
    def param_groups(self) -> Sequence[ParamGroup]: ...

    def train(self, *, on: bool) -> None:
        """Switch what acts in training alone, such as dropout."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Within it the model acts as it did before `attach`: the base, whatever the adapter began with."""

    def begin_at(self, start: Mapping[str, Tensor], *, keep: bool) -> None:
        """Take what an earlier run learned as the initial values, bit for bit.

        Args:
            start: tensors as in `state_dict`.
            keep: whether `at_start` will be asked for; it costs the memory of the parameters once more.

        Raises: ValueError where names or shapes differ.
        """
        self.load_state_dict(start)
        self._began = True
        if keep:
            self._start = {name: tensor.clone() for name, tensor in self.state_dict().items()}

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Within it the model acts as it did when the run began: with its initial values, or `disabled` without any.

        A prediction made before may be differentiated after it. An adapter with something that acts in training alone
        switches that off, too.
        """
        if not self._began:
            with self.disabled():
                yield
            return
        if self._start is None:
            raise ValueError("the start was not kept: attach with keep_base=True")
        live = {name: p for group in self.param_groups() for name, p in group.params.items()}
        now = {name: p.data for name, p in live.items()}
        try:
            # not copy_, which would make what autograd saved of them invalid
            for name, p in live.items():
                p.data = self._start[name]
            yield
        finally:
            for name, p in live.items():
                p.data = now[name]

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
