"""How fast passwords may be tried: a few mistakes are free, then each costs twice the time of the one before."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

FREE = 5
"""Mistakes of one address before it has to wait."""
LONGEST_S = 300.0
FORGET_S = 900.0
"""An address that made no mistake for so long starts anew."""
TOGETHER, WITHIN_S = 60, 60.0
"""Mistakes of all addresses together within so many seconds; beyond it everybody waits."""
ADDRESSES = 4096
"""As many are remembered; beyond that the limit for all together is what holds."""


class Throttle:
    """Counts attempts. Each counts as a mistake from the moment it is let in, so that attempts at once gain nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.mistakes: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """By address: how many, and when the last one was."""
        self.recent: deque[float] = deque()

    def wait_s(self, address: str) -> int:
        """Whole seconds until this address may try; 0 where it may now, and then the try is counted."""
        now, key = self.clock(), network(address)
        while self.recent and now - self.recent[0] >= WITHIN_S:
            self.recent.popleft()
        count, last = self.mistakes.get(key, (0, -math.inf))
        if now - last >= FORGET_S:
            count = 0
        pause = min(2.0 ** (count - FREE), LONGEST_S) if count >= FREE else 0.0
        waits = [last + pause - now]
        if len(self.recent) >= TOGETHER:
            waits.append(self.recent[0] + WITHIN_S - now)
        if (wait := max(waits)) > 0:
            return math.ceil(wait)
        self.mistakes[key] = (count + 1, now)
        self.mistakes.move_to_end(key)
        while len(self.mistakes) > ADDRESSES:
            self.mistakes.popitem(last=False)
        self.recent.append(now)
        return 0

    def right(self, address: str) -> None:
        """The last try of this address was no mistake."""
        self.mistakes.pop(network(address), None)
        if self.recent:
            self.recent.pop()


def network(address: str) -> str:
    """Who an address belongs to: for IPv6 its /64, since one household has all of it."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
