"""What tuner must know of a kind of adapter file: to recognise it, to tell of it, to put it into a pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from .container import Header
    from .deltas import Delta


@dataclass(frozen=True, slots=True)
class Exported:
    """A file in another tool's format."""

    file: Path
    source: Path
    said: str
    """What is in it and how that was shown, in a line."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What `--json` tells besides."""
    warnings: Sequence[str] = ()


class FileKind(ABC):
    """One kind of adapter file. Its module imports no torch at the top, for `inspect` asks it too."""

    name: ClassVar[str]
    """As in a recipe's `adapters`: lora, textual_inversion, hypernetwork."""
    label: ClassVar[str]
    """What people call such a file, with its article."""
    scales: ClassVar[bool] = True
    """Whether it acts at other strengths than 1; a word is known or it is not."""

    exports: ClassVar[Mapping[str, str]] = {}
    """For whom `tuner export` writes it, and what follows the adapter's name in that file's."""

    @abstractmethod
    def claims(self, header: Header) -> bool:
        """Whether the header is one of this kind's, broken or not: names of tensors and metadata tell."""

    def chosen(self, files: Sequence[Path]) -> Sequence[Path]:
        """Which to load of a folder's files of this kind; fewer than all where some hold the same for other tools."""
        return files

    @abstractmethod
    def facts(self, file: Path, header: Header) -> dict[str, Any]:
        """What `inspect_file` says of this kind: `format`, `backbone`, `family`, `loads_in`, and others.

        Raises: DataError with the reason where the file is broken or for a base that tuner does not know.
        """

    @abstractmethod
    def load(
        self, pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str
    ) -> Callable[[], None]:
        """Put the file into a pipeline, beside what is there already.

        Args:
            strength: 1.0 is what was trained; finite.
            name: the adapter's name in the pipeline, without a dot; for kinds that have one.

        Returns: what takes it off again.

        Raises: DataError where the file is broken or does not fit; UsageError where the name is taken or the strength
            means nothing to this kind. The pipeline is as it was then.
        """

    def set_strength(self, pipe: DiffusionPipeline, name: str, strength: float) -> bool:
        """Change how strongly acts what is loaded under this name; False where it has to be loaded again for that."""
        return False

    def unload(self, pipe: DiffusionPipeline, name: str) -> bool:
        """Take what was loaded under this name out of the pipeline; False where there is nothing of this kind."""
        return False

    def deltas(self, file: Path, header: Header) -> Sequence[Delta]:
        """What the file adds to each layer's weight.

        Raises: DataError where the file is broken; UsageError where this kind changes no weights.
        """
        raise UsageError(f"{file}: {self.label} adds nothing to a layer's weights", "load it beside the model")

    def export(self, file: Path, to: str, out: Path) -> Exported:
        """Write the file as another tool reads it, and read that back.

        Args:
            to: a key of `exports`.
            out: a file that is not there yet.

        Raises: DataError where the file is broken; UsageError where it is that tool's already, or `out` is there;
            StorageError where what was written is not what was read.
        """
        raise UsageError(f"{file}: {self.label} is not written for other tools", "it is loaded as it is")
