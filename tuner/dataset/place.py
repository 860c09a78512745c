"""Where datasets are: the workspace's folder of them, and which one a command means."""

from __future__ import annotations

import os
from pathlib import Path

from ..atomic import storage
from ..errors import UsageError
from ..wording import quoted
from .store import FILE, Dataset

VARIABLE = "TUNER_WORKSPACE"
"""Names the workspace, as for the web UI."""


def default_place() -> Path:
    """`datasets` of the workspace at `TUNER_WORKSPACE`, else at `~/tuner`."""
    root = Path(os.environ.get(VARIABLE) or Path.home() / "tuner")
    return root.expanduser().absolute() / "datasets"


def datasets(folder: Path) -> list[Dataset]:
    """The datasets in a folder, in order; none where it is not there. Raises: StorageError."""
    if not folder.is_dir():
        return []
    with storage(folder, "cannot read"):
        return [Dataset(path) for path in sorted(folder.iterdir()) if path.name[0] != "." and (path / FILE).is_file()]


def find(name: str) -> Dataset:
    """The dataset at that path, or of that id or name in the workspace; tidied up.

    Raises: UsageError where there is none or more than one; as `Dataset.open`.
    """
    path = Path(name).expanduser()
    if (path / FILE).is_file():
        return Dataset.open(path.absolute())
    known = datasets(default_place())
    found = [one for one in known if one.path.name == name] or [one for one in known if one.contents().name == name]
    if len(found) == 1:
        return Dataset.open(found[0].path)
    if found:
        ids = ", ".join(one.path.name for one in found)
        raise UsageError(f"{len(found)} datasets are called {quoted(name)}", f"say which by its id: {ids}")
    raise UsageError(f"there is no dataset {quoted(name)}", "`tuner dataset ls` lists them, `new` makes one")
