"""Who has logged in: random tokens, kept as hashes in a file, so that a restarted server still knows them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import atomic
from tuner.errors import StorageError

if TYPE_CHECKING:
    from .passwords import Password

IDLE_S, LIFE_S = 7 * 86400.0, 30 * 86400.0
"""A session ends after a week without a visit, and after 30 days in any case."""
MOST = 64
"""With more of them the one that was used longest ago ends."""
_SEEN_S = 600.0
"""How often a visit is written down."""


class Sessions:
    """The sessions of one server.

    Args:
        file: where they are kept. One that is damaged, or was begun under another password, counts as empty: its
            visitors log in again.
        password: under which sessions begin here.
        clock: seconds since 1970.
    """

    def __init__(self, file: Path, password: Password, clock: Callable[[], float] = time.time) -> None:
        self.file, self.clock = file, clock
        kept = _read(file)
        salt = kept.get("salt")
        self.salt = salt if isinstance(salt, str) and len(salt) == 32 else secrets.token_hex(16)
        self.mark = password.mark(self.salt)
        same = hmac.compare_digest(str(kept.get("password", "")).encode(), self.mark.encode())
        self.known: dict[str, tuple[float, float]] = _pairs(kept.get("sessions")) if same else {}
        """By the token's hash: when it began, and when it was last used."""

    def begin(self) -> str:
        """A new session's token, 256 bits. Raises: StorageError."""
        token = secrets.token_urlsafe(32)
        now = self.clock()
        self.known[_hash(token)] = (now, now)
        self._write(now)
        return token

    def knows(self, token: str) -> bool:
        """Whether a session of that token is on; being asked counts as a visit."""
        key, now = _hash(token), self.clock()
        times = self.known.get(key)
        if times is None or not _on(times, now):
            return False
        if now - times[1] > _SEEN_S:
            self.known[key] = (times[0], now)
            with contextlib.suppress(StorageError):  # a full disk shall not keep out who wants to free it
                self._write(now)
        return True

    def end(self, token: str) -> None:
        """Raises: StorageError."""
        if self.known.pop(_hash(token), None) is not None:
            self._write(self.clock())

    def _write(self, now: float) -> None:
        on = [item for item in self.known.items() if _on(item[1], now)]
        self.known = dict(sorted(on, key=lambda item: item[1][1])[-MOST:])
        tree = {"salt": self.salt, "password": self.mark, "sessions": {k: list(v) for k, v in self.known.items()}}
        atomic.write(self.file, json.dumps(tree))
        with atomic.storage(self.file):
            self.file.chmod(0o600)


def _on(times: tuple[float, float], now: float) -> bool:
    began, used = times
    return 0 <= now - used < IDLE_S and 0 <= now - began < LIFE_S


def _hash(token: str) -> str:
    """A token is random, so its hash needs neither salt nor time; finding one by its hash tells nothing by timing."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _read(file: Path) -> dict[str, Any]:
    """Raises: StorageError where it is there and cannot be read."""
    if not file.is_file():
        return {}
    with atomic.storage(file, "cannot read"):
        text = file.read_bytes()
    try:
        tree = json.loads(text)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _pairs(tree: object) -> dict[str, tuple[float, float]]:
    """The sessions of a file; what is none is left out."""
    rows = tree.items() if isinstance(tree, dict) else ()
    return {
        str(key): (float(times[0]), float(times[1]))
        for key, times in rows
        if isinstance(times, list) and len(times) == 2 and all(isinstance(one, int | float) for one in times)
    }
