"""A watcher that keeps what a run says."""

from __future__ import annotations

from tuner.watch import Watcher


class Listener(Watcher):
    """What was said and what was warned of, line by line."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)
