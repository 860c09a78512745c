"""The one password: made at start, or read from a file for a server that starts by itself."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tuner import atomic
from tuner.errors import UsageError

VARIABLE = "TUNER_UI_PASSWORD_FILE"
"""Names a file whose first line is the password."""
SHORTEST, LONGEST = 12, 256
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without those that look alike."""


@dataclass(frozen=True, slots=True)
class Password:
    """What a visitor must know; in memory alone.

    Sessions outlive a restart, so they remember under which password they began: by `mark`, which tells it from another
    one and no more. A generated password is another one at every start and has no mark.
    """

    text: str
    generated: bool

    def __repr__(self) -> str:
        return "Password(...)"

    @classmethod
    def generate(cls) -> Self:
        """Four groups of five letters and digits: 99 bits."""
        groups = ("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))
        return cls("-".join(groups), generated=True)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises: StorageError; UsageError where it is too short, or others can read it."""
        with atomic.storage(file, "cannot read the password in"):
            mode = file.stat().st_mode
            lines = file.read_text(encoding="utf-8", errors="strict").splitlines() if file.stat().st_size < 4096 else []
        text = lines[0].strip() if lines else ""
        if not SHORTEST <= len(text) <= LONGEST:
            raise UsageError(
                f"{file}: its first line is no password of {SHORTEST} to {LONGEST} characters",
                f"write one there, such as the output of `openssl rand -base64 18`, or unset {VARIABLE}",
            )
        if not atomic.ON_WINDOWS and mode & 0o077:
            raise UsageError(f"{file} can be read by other users", f"run `chmod 600 {file}`")
        return cls(text, generated=False)

    def matches(self, given: str) -> bool:
        """Compared in a time that tells nothing of where the two differ, nor of their lengths."""
        return hmac.compare_digest(_digest(self.text), _digest(given))

    def mark(self, salt: str) -> str:
        """Empty for a generated one; else slow to compute, since it is kept in a file."""
        if self.generated:
            return ""
        return hashlib.scrypt(self.text.encode(), salt=salt.encode(), n=1 << 14, r=8, p=1, dklen=32).hex()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
