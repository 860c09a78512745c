"""The folder that the web UI works in, and the one way from an id that a page sent to a place on the disk."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tuner import atomic
from tuner.errors import UsageError

VARIABLE = "TUNER_WORKSPACE"
"""Names the folder where the command line does not."""


class UnknownId(UsageError):
    """An id that names nothing here: made up, of something deleted, or of another workspace."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"there is no such {kind}", "it may have been deleted: reload the page")


@dataclass(frozen=True, slots=True)
class Workspace:
    """Datasets, runs, jobs and drafts below one folder. Nobody but its owner can read it."""

    root: Path

    @classmethod
    def open(cls, root: Path | None = None) -> Self:
        """The workspace at `root`, else at `TUNER_WORKSPACE`, else `~/tuner`; its folders are made.

        Raises: StorageError.
        """
        if root is None:
            root = Path(os.environ.get(VARIABLE) or Path.home() / "tuner")
        workspace = cls(root.expanduser().absolute())
        with atomic.storage(workspace.root, "cannot make"):
            for folder in (workspace.root, *workspace.folders):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return workspace

    @property
    def folders(self) -> tuple[Path, ...]:
        return self.datasets, self.runs, self.jobs, self.drafts

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def drafts(self) -> Path:
        return self.root / "drafts"

    @property
    def database(self) -> Path:
        return self.root / "tuner.db"

    def dataset(self, name: str) -> Path:
        """Raises: UnknownId."""
        return _listed(self.datasets, name, "dataset")

    def run(self, name: str) -> Path:
        """Raises: UnknownId."""
        return _listed(self.runs, name, "run")

    def job(self, name: str) -> Path:
        """Raises: UnknownId."""
        return _listed(self.jobs, name, "job")


def fresh_id() -> str:
    """An id that nobody can guess, 16 hexadecimal digits."""
    return secrets.token_hex(8)


def _listed(folder: Path, name: str, kind: str) -> Path:
    """The entry of that name, found by listing: what a client sent is compared, and never becomes part of a path."""
    with atomic.storage(folder, "cannot read"), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == name and not name.startswith(".") and entry.is_dir(follow_symlinks=False):
                return Path(entry.path)
    raise UnknownId(kind)
