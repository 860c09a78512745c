"""Which units make up a step: a pure function of (seed, step), so that resuming costs nothing and skips nothing.

An epoch visits every unit of the first role once. Each bucket is ordered by key and cut into whole steps; what is left
over of all buckets is strung together and cut in the same way, so that only the last of these steps is short. A
micro-batch never mixes buckets. The other roles cycle in an order of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..draws import Draws

Bucket = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at one example."""

    index: int
    """Of the example, in its role."""
    epoch: int
    """How often the role had been gone through before."""
    repeat: int
    """Which of the example's repeats this is."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Units that are computed together, all in one bucket."""

    bucket: Bucket
    units: tuple[Mapping[str, Visit], ...]
    """A visit for each role that has pictures."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the order needs to know of an example."""

    uid: str
    repeats: int
    bucket: Bucket


class Order:
    """Steps of a run.

    Args:
        draws: the run's randomness.
        roles: the examples of each role that has pictures, the first role first.
        batch: units in a micro-batch.
        unit_count: units in a step: batch x accumulate x processes.
    """

    def __init__(self, draws: Draws, roles: Mapping[str, Sequence[Entry]], *, batch: int, unit_count: int) -> None:
        self.draws, self.roles, self.batch, self.unit_count = draws, dict(roles), batch, unit_count
        self.first = next(iter(self.roles))
        self.cycles = {
            name: [(index, repeat) for index, entry in enumerate(entries) for repeat in range(entry.repeats)]
            for name, entries in self.roles.items()
        }
        self.units_per_epoch = len(self.cycles[self.first])
        self.steps_per_epoch = -(-self.units_per_epoch // unit_count)
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._cycle = lru_cache(maxsize=2 * len(self.roles))(self._order_cycle)

    def step(self, step: int) -> list[MicroBatch]:
        """The micro-batches of optimizer step number `step` (from 0), in order."""
        epoch, position = divmod(step, self.steps_per_epoch)
        steps, starts = self._epoch(epoch)
        ordinal = epoch * self.units_per_epoch + starts[position]
        units: list[tuple[Bucket, Mapping[str, Visit]]] = []
        for offset, (index, repeat) in enumerate(steps[position]):
            unit = {self.first: Visit(index, epoch, repeat)}
            for name in self.roles:
                if name != self.first:
                    unit[name] = self._other(name, ordinal + offset)
            units.append((self.roles[self.first][index].bucket, unit))
        micro_batches = []
        for bucket, run in groupby(units, key=lambda item: item[0]):
            members = [unit for _, unit in run]
            starts = range(0, len(members), self.batch)
            micro_batches += [MicroBatch(bucket, tuple(members[i : i + self.batch])) for i in starts]
        return micro_batches

    def _other(self, role: str, ordinal: int) -> Visit:
        cycle, place = divmod(ordinal, len(self.cycles[role]))
        index, repeat = self._cycle(role, cycle)[place]
        return Visit(index, cycle, repeat)

    def _order_cycle(self, role: str, cycle: int) -> list[tuple[int, int]]:
        """Entries of a role by key: adding a file moves no other past its neighbour."""
        entries = self.roles[role]
        return sorted(self.cycles[role], key=lambda e: self.draws.key("order", role, cycle, entries[e[0]].uid, e[1]))

    def _plan_epoch(self, epoch: int) -> tuple[list[list[tuple[int, int]]], list[int]]:
        """The entries of each step of an epoch, and how many units came before each."""
        by_bucket: dict[Bucket, list[tuple[int, int]]] = {}
        for entry in self._order_cycle(self.first, epoch):
            by_bucket.setdefault(self.roles[self.first][entry[0]].bucket, []).append(entry)
        steps: list[list[tuple[int, int]]] = []
        left_over: list[tuple[int, int]] = []
        for bucket in sorted(by_bucket, key=lambda b: self.draws.key("bucket_order", epoch, *b)):
            entries = by_bucket[bucket]
            whole = len(entries) - len(entries) % self.unit_count
            steps += [entries[i : i + self.unit_count] for i in range(0, whole, self.unit_count)]
            left_over += entries[whole:]
        steps += [left_over[i : i + self.unit_count] for i in range(0, len(left_over), self.unit_count)]
        steps = [steps[i] for i in self.draws.permutation(len(steps), "step_order", epoch)]
        starts, total = [], 0
        for entries in steps:
            starts.append(total)
            total += len(entries)
        return steps, starts
