"""Rows of the queue as jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .database import reading
from .job import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from webui.workspace import Workspace


def with_state(workspace: Workspace, *states: str, device: str | None = None) -> list[Job]:
    """The jobs in one of these states, in the order of the queue; all jobs where no state is named.

    Raises: StorageError, LockedError.
    """
    where, values = _where({"state": states, "device": (device,) if device else ()})
    with reading(workspace.database) as connection:
        rows = connection.execute(f"SELECT * FROM job{where} ORDER BY place, created, id", values).fetchall()
    return [Job.from_row(row) for row in rows]


def newest(workspace: Workspace, limit: int, **wanted: Sequence[str]) -> list[Job]:
    """At most `limit` jobs, the latest first, with one of the values wanted for each column."""
    where, values = _where(wanted)
    with reading(workspace.database) as connection:
        rows = connection.execute(
            f"SELECT * FROM job{where} ORDER BY created DESC, rowid DESC LIMIT ?",
            (*values, limit),
        ).fetchall()
    return [Job.from_row(row) for row in rows]


def _where(wanted: dict[str, Sequence[str]]) -> tuple[str, tuple[str, ...]]:
    """The condition, whose column names are this program's own, and the values that it asks for."""
    given = {column: values for column, values in wanted.items() if values}
    if not given:
        return "", ()
    tests = [f"{column} IN ({', '.join('?' * len(values))})" for column, values in given.items()]
    return " WHERE " + " AND ".join(tests), tuple(value for values in given.values() for value in values)
