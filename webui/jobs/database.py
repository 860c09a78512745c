"""Where the queue is kept: one SQLite file that any number of processes read and write."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from tuner import atomic
from tuner.errors import LockedError, StorageError, TunerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1
"""Of the tables, kept in the file."""
BUSY_S = 10.0
"""How long to wait for another process that writes."""
_TABLES = (
    """CREATE TABLE job (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, title TEXT NOT NULL, words TEXT NOT NULL, device TEXT NOT NULL,
        state TEXT NOT NULL, place REAL NOT NULL, created REAL NOT NULL, started REAL, finished REAL,
        pid INTEGER, pid_create_time REAL, asked REAL, reason TEXT NOT NULL DEFAULT '', hint TEXT NOT NULL DEFAULT '',
        run TEXT
    ) STRICT""",
    "CREATE INDEX job_by_state ON job (state, device, place)",
)
_PLACE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of the caller's own, closed at the end: none is shared between threads or survives a fork.

    Raises: StorageError, LockedError; UsageError where a newer version of the program made the file.
    """
    with _told(path), closing(_connect(path)) as connection:
        yield connection


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """The same within one transaction: all of the block happens or, where it raises, nothing.

    Raises: as `reading`.
    """
    with reading(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous=FULL")
        if _version(connection) == 0:
            _create(connection, path)
        if (version := _version(connection)) != VERSION:
            raise UsageError(
                f"{path} was made by another version of this program (tables {version}, known {VERSION})",
                "update the program, or choose another workspace",
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, once, also where several processes begin together."""
    os.chmod(path, 0o600)  # it holds prompts
    deadline = time.monotonic() + BUSY_S
    while True:
        try:  # SQLite does not wait for others while the kind of journal changes, so the waiting is done here
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if _code(error) not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            break
    connection.execute("BEGIN IMMEDIATE")
    if _version(connection) == 0:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
    connection.execute("COMMIT")


def _code(error: sqlite3.Error) -> int:
    """SQLite's own number of what went wrong; 0 for errors that Python found."""
    number: int | None = getattr(error, "sqlite_errorcode", None)
    return (number or 0) & 0xFF


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what a user can do something about into a plain error; any other is a fault of the program and passes."""
    try:
        yield
    except sqlite3.Error as error:
        found = _fault(error, path)
        if found is None:
            raise
        raise found from error
    except OSError as error:
        raise atomic.storage_error(error, path) from error


def _fault(error: sqlite3.Error, path: Path) -> TunerError | None:
    code = _code(error)
    if code in _BUSY:
        return LockedError(
            f"the queue is busy: something else has kept {path} locked for {BUSY_S:.0f} s",
            "close other programs that have it open, then try again",
        )
    if code in _PLACE:
        return StorageError(f"cannot use {path}: {error}", "free space on that disk and see that it can be written to")
    if code in _DAMAGE:
        return StorageError(
            f"the queue's file {path} is damaged: {error}",
            "move it away: a new, empty queue is made; runs and datasets are not kept in it",
        )
    return None
