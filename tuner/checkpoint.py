"""The state of a run on disk: atomic, hashed, read back before it counts, and loaded only where every byte verifies."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import atomic
from .errors import StorageError
from .tensor_files import read_tensors, same_bits, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor


SCHEMA = 1
"""Version of the layout. A reader refuses what it does not know."""
_MANIFEST, _STATE = "manifest.json", "state.json"
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_STRAYS = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs.*|\.directory")
"""Files that file managers and network file systems put into any folder."""


@dataclass(frozen=True, slots=True)
class State:
    """What a run needs to go on bit for bit from a step boundary."""

    step: int
    """Optimizer steps done."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """Tensors by group (`adapter.0`, `optimizer`, `ema` ...) and name; any dtype and shape."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Everything else, as JSON values."""


class RejectedError(Exception):
    """Why a folder is no valid checkpoint."""


def save(folder: Path, state: State, *, keep: int, outputs: Sequence[str] = ()) -> Path:
    """Write `<folder>/<step>/`, read it back, then let go of the resume states of the steps before the newest `keep`.

    A killed save leaves the checkpoints before it as they were. A step that holds the same state stays as it is.
    Old steps lose their files only: the folders in them, such as `adapter/`, stay, apart from those named in `outputs`.

    Raises: StorageError (disk full, no access, or what is on disk is not what was written); nothing is rotated then.
    """
    facts = _json_facts(state.facts)
    target = folder / str(state.step)
    if not _holds(target, state, facts):
        with atomic.folder(target) as scratch:
            _write(scratch, state, facts)
            _check_written(scratch, target, state, facts)
            _carry_outputs(target, scratch)
    rotate(folder, state.step, keep=keep, outputs=outputs)
    return target


def newest(folder: Path) -> tuple[State | None, list[str]]:
    """The newest state that verifies, and a line for each newer one that does not: which it is and why.

    Tensors come back on the CPU, bitwise as they were saved.
    """
    rejected = []
    for step, place in _candidates(folder):
        try:
            return _load(place, step), rejected
        except RejectedError as reason:
            rejected.append(f"{place} is not used: {reason}")
    return None, rejected


def steps(folder: Path) -> list[int]:
    """The steps that have a resume state, ascending, without looking into them."""
    return sorted(step for step, place in _candidates(folder) if (place / _MANIFEST).is_file())


def add_folder(folder: Path, step: int, name: str) -> AbstractContextManager[Path]:
    """Fill `<folder>/<step>/<name>/` (such as `adapter/`) in one piece, replacing what is there."""
    return atomic.folder(folder / str(step) / name)


# Writing


def _json_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as they will be read back. Raises: ValueError or TypeError where that is not what they were."""
    copy = json.loads(json.dumps(dict(facts), allow_nan=False))
    if copy != dict(facts):
        raise TypeError("facts of a checkpoint must be JSON values: text keys, lists instead of tuples")
    return copy


def _write(place: Path, state: State, facts: Mapping[str, Any]) -> None:
    groups = {}
    for group, tensors in state.tensors.items():
        if not _GROUP.fullmatch(group) or f"{group.lower()}.safetensors" in map(str.lower, groups.values()):
            raise ValueError(
                f"{group!r} cannot name a group of a checkpoint: it must be a new file name on every system"
            )
        groups[group] = f"{group}.safetensors"
        with atomic.storage(place / groups[group]):
            write_tensors(place / groups[group], tensors)
    content = {"schema": SCHEMA, "step": state.step, "groups": groups, "facts": facts}
    (place / _STATE).write_bytes(json.dumps(content, indent=1, sort_keys=True).encode())
    files = {path.name: _fingerprint(path) for path in sorted(place.iterdir())}
    (place / _MANIFEST).write_bytes(_manifest(state.step, files))


def _manifest(step: int, files: Mapping[str, Any]) -> bytes:
    """The one spelling of a manifest. It holds its own hash, so that an edited one is noticed."""
    content = {"schema": SCHEMA, "step": step, "files": dict(files)}
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": os.fstat(file.fileno()).st_size}


def _check_written(scratch: Path, target: Path, state: State, facts: Mapping[str, Any]) -> None:
    """Read a new checkpoint back and compare. Raises: StorageError."""
    atomic.sync_tree(scratch)
    try:
        if _differs(scratch, state, facts):
            raise _faulty(target, "it reads back differently from what was written")
    except RejectedError as reason:
        raise _faulty(target, str(reason)) from None


def _faulty(target: Path, reason: str) -> StorageError:
    return StorageError(
        f"cannot save {target}: {reason}",
        "the disk or the memory is faulty: check both; the earlier checkpoints are untouched",
    )


def _carry_outputs(target: Path, scratch: Path) -> None:
    """Take along the folders of a step whose resume state was rotated away: its adapter is still the step's own."""
    if (target / _MANIFEST).exists() or not target.is_dir():
        return
    for entry in target.iterdir():
        if entry.is_dir() and not atomic.TEMPORARY.match(entry.name):
            shutil.copytree(entry, scratch / entry.name)


def _holds(target: Path, state: State, facts: Mapping[str, Any]) -> bool:
    """Whether this very state is at `target` already, as after a resume from an earlier step."""
    if not target.is_dir():
        return False
    try:
        return not _differs(target, state, facts)
    except RejectedError:
        return False


def _differs(place: Path, state: State, facts: Mapping[str, Any]) -> bool:
    """Whether the checkpoint at `place` is another state; one group at a time in memory. Raises: RejectedError."""
    found, groups = _open(place, state.step)
    return (
        found != facts
        or groups.keys() != state.tensors.keys()
        or not all(same_bits(_tensors(path), state.tensors[group]) for group, path in groups.items())
    )


# Reading


def _candidates(folder: Path) -> list[tuple[int, Path]]:
    """(step, place) of each step with files of a state, newest first.

    A valid folder that was set aside when its successor's rename was killed counts as its step.
    """
    found: dict[int, Path] = {}
    if not folder.is_dir():
        return []
    with atomic.storage(folder, "cannot read"):
        for place in folder.iterdir():
            aside = atomic.ASIDE.match(place.name)
            name = aside["name"] if aside else place.name
            if not re.fullmatch(r"0|[1-9]\d{0,17}", name) or not place.is_dir():
                continue
            if (aside and (folder / name).exists()) or not _state_files(place):
                continue
            found[int(name)] = place
    return sorted(found.items(), reverse=True)


def _state_files(place: Path) -> list[Path]:
    """The files of a step folder that belong to its state: all but folders, strays and half-written ones."""
    return [
        path
        for path in place.iterdir()
        if not _STRAYS.fullmatch(path.name)
        and not atomic.TEMPORARY.match(path.name)
        and (path.is_symlink() or not path.is_dir())
    ]


def _load(place: Path, step: int) -> State:
    """Verify and read one checkpoint. Raises: RejectedError."""
    facts, groups = _open(place, step)
    return State(step, {group: _tensors(path) for group, path in groups.items()}, facts)


def _open(place: Path, step: int) -> tuple[dict[str, Any], dict[str, Path]]:
    """The facts and the verified file of each group. Raises: RejectedError."""
    try:
        files = _read_manifest(place, step)
        _verify(place, files)
        content = json.loads((place / _STATE).read_bytes())
    except OSError as error:
        raise _unreadable(place, error) from None
    groups = {group: place / name for group, name in content["groups"].items()}
    if content["step"] != step or {_STATE, *content["groups"].values()} != set(files):
        raise RejectedError(f"{_STATE} and {_MANIFEST} do not belong together")
    return content["facts"], groups


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except atomic.file_errors() as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> RejectedError:
    named = getattr(error, "filename", None)
    return RejectedError(f"{Path(named or path).name} cannot be read: {getattr(error, 'strerror', None) or error}")


def _read_manifest(place: Path, step: int) -> Mapping[str, Any]:
    """The files a checkpoint must consist of. Raises: RejectedError, OSError."""
    try:
        raw = (place / _MANIFEST).read_bytes()
    except FileNotFoundError:
        raise RejectedError(f"{_MANIFEST} is missing") from None
    try:
        content = json.loads(raw)
        if content["schema"] != SCHEMA:
            raise RejectedError(f"{_MANIFEST} has layout version {content['schema']}; this program knows {SCHEMA}")
        files = content["files"]
        if raw != _manifest(content["step"], files):
            raise RejectedError(f"{_MANIFEST} was changed")
        if content["step"] != step:
            raise RejectedError(f"{_MANIFEST} is about step {content['step']}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise RejectedError(f"{_MANIFEST} was changed") from None
    return files


def _verify(place: Path, files: Mapping[str, Any]) -> None:
    """Compare every file with the manifest. Raises: RejectedError, OSError."""
    present = {path.name for path in _state_files(place)} - {_MANIFEST}
    for name in sorted(present - files.keys()):
        raise RejectedError(f"{name} is not in its {_MANIFEST}")
    for name, expected in sorted(files.items()):
        if name not in present:
            raise RejectedError(f"{name} is missing")
        found = _fingerprint(place / name)
        if found["bytes"] != expected["bytes"]:
            raise RejectedError(f"{name} has {found['bytes']} bytes instead of {expected['bytes']}")
        if found["sha256"] != expected["sha256"]:
            raise RejectedError(f"{name} was changed: its sha256 is not the recorded one")


# Rotation


def rotate(folder: Path, step: int, *, keep: int, outputs: Sequence[str] = ()) -> None:
    """Let go of the states before `step`, which verified, that are not among the newest `keep` with it.

    A part of `save`; by itself it finishes what a kill left of it. Raises: StorageError.
    """
    earlier = [(at, place) for at, place in _candidates(folder) if at < step]
    intact = [at for at, place in earlier if (place / _MANIFEST).is_file()][: max(keep, 1) - 1]
    with atomic.storage(folder, "cannot remove old checkpoints from"):
        for at, place in earlier:
            if at not in intact:
                _discard(place, outputs)


def _discard(place: Path, outputs: Sequence[str]) -> None:
    """Remove a state, its manifest first so that no half of it passes for a whole, and the folder when it is empty."""
    for path in sorted(_state_files(place), key=lambda path: path.name != _MANIFEST):
        path.unlink()
    for name in outputs:
        if (place / name).is_dir():
            shutil.rmtree(place / name)
    if any(path.is_dir() and not atomic.TEMPORARY.match(path.name) for path in place.iterdir()):
        atomic.sync_folder(place)
    else:
        shutil.rmtree(place)
