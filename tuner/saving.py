"""Checkpoints and adapter files of a run. Nothing is called saved before it was loaded back."""

from __future__ import annotations

import filecmp
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import atomic, checkpoint
from .errors import StorageError
from .samples import at_rest

if TYPE_CHECKING:
    from torch import Tensor

    from .formats.about import About
    from .training import Training
    from .watch import Watcher


class Saver:
    """Writes `checkpoints/<step>/` with its `adapter/`, and `adapter/` at the end.

    Args:
        folder: the run directory.
        training: what moves.
        about: what the files say of themselves, given the step.
        keep: resume states to keep.
    """

    def __init__(
        self, folder: Path, training: Training, about: Callable[[int], About], watcher: Watcher, *, keep: int
    ) -> None:
        self.folder, self.training, self.about, self.watcher, self.keep = folder, training, about, watcher, keep

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def rotating(self) -> tuple[str, ...]:
        """Folders of a step that go with its resume state: whole models are too large to keep them all."""
        return ("adapter",) if any(attachment.saves_whole_models for attachment in self.training.attachments) else ()

    def rotate(self, step: int) -> None:
        """Finish what a kill left of letting go of old steps. Raises: StorageError."""
        checkpoint.rotate(self.checkpoints, step, keep=self.keep, outputs=self.rotating)

    def save(self, step: int, facts: Mapping[str, Any]) -> None:
        """Write the state and the adapter files of `step`; the files are there only once they loaded back.

        Raises: StorageError; what was saved before still stands.
        """
        self.watcher.phase("saving")
        state = checkpoint.State(step, self.training.tensors(), facts)
        checkpoint.save(self.checkpoints, state, keep=self.keep, outputs=self.rotating)
        self.export(step)

    def export(self, step: int) -> None:
        """Write and verify `checkpoints/<step>/adapter/`."""
        with checkpoint.add_folder(self.checkpoints, step, "adapter") as folder:
            about = self.about(step)
            for attachment in self.training.attachments:
                state = self._shown(attachment.state_dict())
                files = attachment.export(folder, state, about)
                with at_rest(self.training):
                    attachment.verify(files, state)
        place = self.checkpoints / str(step) / "adapter"
        self.watcher.saved(step, sorted(path for path in place.iterdir() if path.is_file()))

    def finish(self, step: int) -> Path:
        """Put the files of the last step into `adapter/`, byte for byte those that loaded back."""
        source, target = self.checkpoints / str(step) / "adapter", self.folder / "adapter"
        names = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
        with atomic.folder(target) as folder, atomic.storage(target):
            shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=atomic.place_file)
            _, wrong, unread = filecmp.cmpfiles(source, folder, names, shallow=False)
            if wrong or unread:
                raise StorageError(f"{target}: {', '.join(wrong + unread)} did not copy whole", "check the disk")
        return target

    def _shown(self, raw: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights that files hold: the average where there is one."""
        average = self.training.average
        return {name: average.tensors[name] for name in raw} if average else raw


def today() -> str:
    """The date, for cards and sidecars."""
    return time.strftime("%Y-%m-%d")


def missing_export(folder: Path, step: int) -> bool:
    """Whether a run was killed between a state and its adapter files."""
    return not (folder / "checkpoints" / str(step) / "adapter").is_dir()
