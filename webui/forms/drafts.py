"""Recipes that are still being written, kept so that a closed page or a restarted server loses nothing."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuner import atomic
from tuner.errors import UsageError
from tuner.yaml_text import MAX_BYTES

from ..workspace import UnknownId, fresh_id
from .basics import Basics

if TYPE_CHECKING:
    from pathlib import Path

    from ..workspace import Workspace

MOST = 500
"""Drafts that one workspace keeps."""
_FILE = re.compile(r"(?P<id>[0-9a-f]{16})\.yaml")


@dataclass(frozen=True, slots=True)
class Draft:
    """A recipe that is being written."""

    id: str
    text: str
    """YAML, sound or not."""
    basics: Basics
    saved: float
    """Unix time."""

    @property
    def title(self) -> str:
        """What it is called."""
        return self.basics.name.strip() or "without a name"


@dataclass(frozen=True, slots=True)
class Drafts:
    """The drafts of a workspace: `<id>.yaml`, and the basic answers as `<id>.json` beside it."""

    workspace: Workspace

    def save(self, text: str, basics: Basics, id: str = "") -> str:
        """Write a draft whole, over that of the same id; gives its id.

        Args:
            text: the recipe's YAML, as it is in the editor.
            basics: the answers beside it.
            id: of a draft that is there; empty begins a new one.

        Raises: UnknownId; UsageError where it is too long or there are too many; StorageError.
        """
        if len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise UsageError(f"a recipe has at most {MAX_BYTES // 1024} KB", "take something out of it")
        known = self._ids()
        if id and id not in known:
            raise UnknownId("draft")
        if not id and len(known) >= MOST:
            raise UsageError(f"there are {len(known)} drafts, and {MOST} is the most", "delete some of them first")
        id = id or fresh_id()
        folder = self.workspace.drafts
        answers = json.dumps(basics.to_json(), ensure_ascii=True)
        atomic.write(folder / f"{id}.json", answers)
        atomic.write(folder / f"{id}.yaml", text.encode("utf-8", "replace"))
        return id

    def get(self, id: str) -> Draft:
        """Raises: UnknownId, StorageError."""
        if id not in self._ids():
            raise UnknownId("draft")
        return self._read(id)

    def listed(self) -> list[Draft]:
        """Every draft, the one saved last first. Raises: StorageError."""
        found = []
        for id in self._ids():
            try:
                found.append(self._read(id))
            except UnknownId:  # deleted in another tab a moment ago
                continue
        return sorted(found, key=lambda draft: (-draft.saved, draft.id))

    def delete(self, id: str) -> None:
        """Raises: UnknownId, StorageError."""
        if id not in self._ids():
            raise UnknownId("draft")
        with atomic.storage(self.workspace.drafts, "cannot delete"):
            for ending in ("yaml", "json"):
                (self.workspace.drafts / f"{id}.{ending}").unlink(missing_ok=True)

    def _ids(self) -> list[str]:
        with atomic.storage(self.workspace.drafts, "cannot read"), os.scandir(self.workspace.drafts) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        return sorted(found["id"] for name in names if (found := _FILE.fullmatch(name)))

    def _read(self, id: str) -> Draft:
        file = self.workspace.drafts / f"{id}.yaml"
        try:
            text, saved = file.read_bytes().decode("utf-8", "replace"), file.stat().st_mtime
        except FileNotFoundError:
            raise UnknownId("draft") from None
        except OSError as error:
            raise atomic.storage_error(error, file, "cannot read") from error
        return Draft(id, text, Basics.from_json(_answers(file.with_suffix(".json"))), saved)


def _answers(file: Path) -> dict[str, Any]:
    """The basic answers beside a draft; none where they are gone or broken, for the YAML is what counts."""
    try:
        tree = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def ago(saved: float, now: float | None = None) -> str:
    """How long ago that was, in words."""
    seconds = max(0.0, (time.time() if now is None else now) - saved)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"
