"""The captions that come in files of their own: a .txt beside a picture, or a table of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data import captions, metadata
from ..data.listing import shown
from ..errors import DataError
from . import names
from .landing import Caption, Verdict
from .limits import MAX_TABLE_BYTES, MAX_TEXT_BYTES

if TYPE_CHECKING:
    from .zips import Member

COLUMNS = ("text", "caption", "prompt")
"""Keys of a table that may hold the caption; the first that a row has counts."""


def read(member: Member) -> list[Caption | Verdict]:
    """What a caption file says: captions, and a verdict on each line that says nothing. Never raises for bad bytes."""
    label = names.display(member.name)
    table = names.kind(member.name) == "table"
    try:
        data = member.read(MAX_TABLE_BYTES if table else MAX_TEXT_BYTES)
        if table:
            return _rows(data, member.name, label)
        text, changes = captions.read(data, label)
    except DataError as error:
        return [refusal(label, error, "captions" if table else "caption")]
    if not text:
        return [Verdict(label, accepted=False, reason="the file is empty", kind="caption")]
    return [Caption(label, names.key(member.name), "", text, changes)]


def refusal(label: str, error: DataError, kind: str) -> Verdict:
    reason = error.message.removeprefix(f"{label}: ")
    if error.hint:
        reason = f"{reason}; {error.hint}"
    return Verdict(label, accepted=False, reason=reason, kind=kind)  # type: ignore[arg-type]


def _rows(data: bytes, name: str, label: str) -> list[Caption | Verdict]:
    """Raises: DataError where nothing in it can be read."""
    table = metadata.read(data, label, *COLUMNS)
    if not table.rows and not table.problems:
        return [Verdict(label, accepted=False, reason="the file holds no captions", kind="captions")]
    if table.columns and not set(COLUMNS) & set(table.columns):
        listed = ", ".join(shown(column) for column in table.columns)[:200]
        raise DataError(f"no row has a key {', '.join(COLUMNS)}; there is {listed}", "call the captions `text`")
    found: list[Caption | Verdict] = []
    folder = "/".join(names.parts(name)[:-1])
    for path, row in table.rows.items():
        place = f"{label}:{row.line}"
        given = next((texts for column in COLUMNS if (texts := row.by_column[column])), ())
        notes: tuple[str, ...] = ()
        if len(given) > 1:
            notes = (f"the first of {len(given)} captions counts",)
        try:
            text, changes = captions.clean(given[0] if given else "", place)
        except DataError as error:
            found.append(refusal(place, error, "caption"))
            continue
        if text:
            key = names.key(f"{folder}/{path}" if folder else path)
            found.append(Caption(place, key, names.suffix(path), text, (*changes, *notes)))
        else:
            found.append(Verdict(place, accepted=False, reason="the caption is empty", kind="caption"))
    for line, reason in sorted(table.problems):
        found.append(Verdict(f"{label}:{line}", accepted=False, reason=shown(reason), kind="caption"))
    return found
