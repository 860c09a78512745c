"""From whatever somebody drops to pictures and captions of a dataset, with a verdict on every file."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from .. import atomic
from ..data.listing import count, some
from ..errors import DataError, UsageError
from . import beside, names, pictures, zips
from .bundle import Bundle
from .landing import Judged, Made, Verdict, land
from .limits import Limits, megabytes
from .scratch import scratch
from .zips import Member

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .record import Picture
    from .store import Dataset

__all__ = ["Limits", "Verdict", "intake", "intake_paths"]

_BATCH = 8
_BATCH_BYTES = 64 * 2**20


def intake(dataset: Dataset, name: str, source: bytes | Path, limits: Limits | None = None) -> list[Verdict]:
    """Take in one dropped file: a picture, a caption file, a table of captions, or a zip of them.

    Args:
        dataset: where to.
        name: what the file was called, perhaps with folders before it. Never used as a path.
        source: its bytes, or where they lie; a zip is read from a file.
        limits: sizes that are refused.

    Raises: UsageError where the dataset is gone; DataError where its files make no sense; StorageError, LockedError.
    A file that cannot be used is no error: its verdict says why.
    """
    limits = limits or Limits()
    if names.kind(name) != "zip":
        return list(chain.from_iterable(_take(dataset, [_member(name, source)], limits, loose=True)))
    if isinstance(source, bytes):
        with tempfile.NamedTemporaryFile(suffix=".zip") as file:
            file.write(source)
            file.flush()
            return _unpack(dataset, name, Path(file.name), limits)
    return _unpack(dataset, name, source, limits)


def intake_paths(dataset: Dataset, paths: Iterable[Path], limits: Limits | None = None) -> Iterator[Verdict]:
    """Take in files and folders of this machine; the verdicts come as the files are done.

    Raises: UsageError where a path is not there; as `intake`.
    """
    limits = limits or Limits()
    members, packed = [], []
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path}", "name files, folders or zips that are there")
        for file, name in _files(path):
            (packed if names.kind(name) == "zip" else members).append((file, name))
    yield from chain.from_iterable(_take(dataset, [_member(name, file) for file, name in members], limits, loose=True))
    for file, name in packed:
        yield from _unpack(dataset, name, file, limits)


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """The files of a folder with their names from there on, or the one file. Links in a folder are not followed."""
    if not path.is_dir():
        yield path.resolve(), path.name
        return
    for where, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = Path(where, name)
            yield file, str(file.relative_to(path))


def _member(name: str, source: bytes | Path) -> Member:
    def read(most: int) -> bytes:
        if isinstance(source, bytes):
            size = len(source)
        else:
            if source.is_symlink() or not source.is_file():
                raise DataError("a link or a device, and not a file")
            with atomic.storage(source, "cannot read"):
                size = source.stat().st_size
        if size > most:
            raise DataError(f"{megabytes(size)}, more than the limit of {megabytes(most)}")
        if isinstance(source, bytes):
            return source
        try:
            return source.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read ({(error.strerror or str(error)).lower()})") from error

    return Member(name, read)


def _unpack(dataset: Dataset, name: str, path: Path, limits: Limits) -> list[Verdict]:
    """The verdict on the zip itself comes first."""
    label = names.display(name)
    try:
        size = path.stat().st_size
        if size > limits.zip_bytes:
            raise DataError(f"{megabytes(size)}, more than the limit of {megabytes(limits.zip_bytes)}")
        with zips.opened(path, limits) as files:
            verdicts = list(chain.from_iterable(_take(dataset, files.members, limits, loose=False)))
            taken = sum(one.accepted and one.kind == "picture" for one in verdicts)
            notes = [f"{count(taken, 'picture')} of {count(len(files.members), 'file')} taken in"]
            if files.system:
                notes.append(f"{count(len(files.system), 'hidden file')} left out: {some(files.system, 5)}")
            copies = any(one.picture and one.kind == "picture" for one in verdicts)
            reason = "" if taken else "no picture in it is new" if copies else "no picture in it can be used"
            return [Verdict(label, accepted=taken > 0, reason=reason, notes=tuple(notes), kind="zip"), *verdicts]
    except DataError as error:
        return land(dataset, dataset.incoming, [beside.refusal(label, error, "zip")])


def _take(dataset: Dataset, members: Sequence[Member], limits: Limits, *, loose: bool) -> Iterator[list[Verdict]]:
    """Judge and take in files that came together. Captions among them belong to pictures among them.

    Args:
        dataset: where to.
        members: the files.
        limits: sizes that are refused.
        loose: captions without a picture among them may find one in the dataset, or wait for it.
    """
    texts = [one for one in members if names.kind(one.name) in ("caption", "table")]
    others = [one for one in members if names.kind(one.name) not in ("caption", "table")]
    bundle = Bundle([one.name for one in others])
    rest: list[Judged] = []
    for member in texts:
        for said in beside.read(member):
            told = said if isinstance(said, Verdict) else bundle.offer(said, loose=loose)
            rest += [told] if told else []
    if others:
        yield from _take_pictures(dataset, others, bundle, limits)
    yield land(dataset, dataset.incoming, [*rest, *bundle.verdicts])


def _take_pictures(
    dataset: Dataset, members: Sequence[Member], bundle: Bundle, limits: Limits
) -> Iterator[list[Verdict]]:
    left = limits.room_bytes
    pool = ThreadPoolExecutor(limits.workers, "intake") if len(members) > 1 else None
    try:
        with scratch(dataset) as folder:
            start = 0
            for batch in _batches(members, limits):
                work = [(member.name, data, folder) for member, data in batch]
                made = list(pool.map(_judge, work) if pool else map(_judge, work))
                judged: list[Judged] = []
                for place, one in enumerate(made, start):
                    if isinstance(one, Verdict):
                        judged.append(one)
                        continue
                    left = None if left is None else left - one.bytes
                    over = left is not None and left < 0
                    judged.append(_no_room(one) if over else Made(one, bundle.captions.get(place)))
                verdicts = land(dataset, folder, judged)
                bundle.settle(start, verdicts)
                start += len(batch)
                yield verdicts
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _batches(members: Sequence[Member], limits: Limits) -> Iterator[list[tuple[Member, bytes | Verdict]]]:
    """The files with their bytes, or why they have none; a few at a time, so that few are in memory."""
    batch: list[tuple[Member, bytes | Verdict]] = []
    size = 0
    for member in members:
        data = _bytes(member, limits)
        batch.append((member, data))
        size += len(data) if isinstance(data, bytes) else 0
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bytes(member: Member, limits: Limits) -> bytes | Verdict:
    label = names.display(member.name)
    reason = names.why_not(member.name)
    if names.kind(member.name) == "system":
        reason = "a hidden file, or one that a system left there"
    if reason:
        return Verdict(label, accepted=False, reason=reason)
    try:
        return member.read(limits.file_bytes)
    except DataError as error:
        return beside.refusal(label, error, "other")


def _judge(work: tuple[str, bytes | Verdict, Path]) -> Picture | Verdict:
    name, data, folder = work
    if isinstance(data, Verdict):
        return data
    try:
        return pictures.make(data, name, folder)
    except DataError as error:
        return beside.refusal(names.display(name), error, "picture")


def _no_room(picture: Picture) -> Verdict:
    reason = "no room is left for it; remove datasets or runs that are not needed"
    return Verdict(picture.name, accepted=False, reason=reason, kind="picture")
