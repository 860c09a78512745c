"""The Monitor screen: one run as it is now, part by part, so that a page draws again only what changed."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.rundir import RunDir

from .files import mark
from .log import Log, tail
from .matrix import Matrix, marks, matrix
from .metrics import Curve, MetricsReader
from .panels import panels
from .state import Head, head, status_of
from .words import count, shown

if TYPE_CHECKING:
    from .svg import Panel

MOST_READERS = 64
"""Runs whose numbers are kept in memory between two looks."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page shows already. Small, and equal where nothing changed; means nothing to another process."""

    run: str
    head: int
    curves: int
    matrix: int
    log: int
    newest_ns: int
    """When the newest sample changed that was shown."""


@dataclass(frozen=True, slots=True)
class Curves:
    """The numbers of a run as charts, the loss first."""

    panels: tuple[Panel, ...]
    note: str = ""
    """What of metrics.jsonl is not shown."""

    def panel(self, key: str) -> Panel | None:
        return next((panel for panel in self.panels if panel.key == key), None)


@dataclass(frozen=True, slots=True)
class MonitorView:
    """A run as it is now. A part that the page shows already is None."""

    run: str
    """The name of its directory."""
    seen: Seen
    """Give it to the next look."""
    head: Head | None
    curves: Curves | None
    matrix: Matrix | None
    log: Log | None

    @property
    def changed(self) -> bool:
        return any(part is not None for part in (self.head, self.curves, self.matrix, self.log))


class Readers:
    """The readers of the runs that were looked at last. Any number of threads may ask."""

    def __init__(self, most: int = MOST_READERS) -> None:
        self.most = most
        self._readers: OrderedDict[Path, tuple[threading.Lock, MetricsReader]] = OrderedDict()
        self._guard = threading.Lock()

    def look(self, run: Path, known: int | None = None) -> tuple[int, Curves | None]:
        """What identifies the state of a run's numbers, and the numbers, unless that is what is known."""
        lock, reader = self._of(run)
        with lock:
            identity = hash((reader.look(), reader.behind, reader.total))
            return identity, None if identity == known else _told(reader)

    def numbers(self, run: Path) -> tuple[dict[str, Curve], bool]:
        """The numbers by name, copied as the reader's own go on growing; and whether there are more to read."""
        lock, reader = self._of(run)
        with lock:
            reader.look()
            return copy.deepcopy(reader.curves), reader.behind

    def _of(self, run: Path) -> tuple[threading.Lock, MetricsReader]:
        with self._guard:
            if run not in self._readers:
                self._readers[run] = (threading.Lock(), MetricsReader(RunDir(run).metrics_file))
            self._readers.move_to_end(run)
            while len(self._readers) > self.most:
                self._readers.popitem(last=False)
            return self._readers[run]


READERS = Readers()
"""Of this process; what they hold follows from the files alone."""


def monitor(run: Path, seen: Seen | None = None, readers: Readers = READERS) -> MonitorView:
    """A run as it is now.

    Args:
        run: its directory.
        seen: what the page shows, from its last look; of another run, or None, everything is given.
        readers: where numbers are remembered between two looks.
    """
    known = seen if seen is not None and seen.run == run.name else None
    top = head(run, status_of(run))
    numbers, curves = readers.look(run, known.curves if known else None)
    pictures = hash(marks(run))
    table = None
    if known is None or known.matrix != pictures:
        table = matrix(run, since_ns=known.newest_ns if known else None)
    log_file = RunDir(run).log_file
    log = hash(mark(log_file))
    newest = known.newest_ns if known else 0
    return MonitorView(
        run=shown(run.name),
        seen=Seen(run.name, hash(top), numbers, pictures, log, max(newest, table.newest_ns) if table else newest),
        head=top if known is None or known.head != hash(top) else None,
        curves=curves,
        matrix=table,
        log=tail(log_file) if known is None or known.log != log else None,
    )


def _told(reader: MetricsReader) -> Curves:
    notes, odd = [], reader.oddities
    if reader.behind:
        notes.append("The file of numbers is large; more of it is being read.")
    if odd.lines:
        notes.append(f"Not measurements, so passed over: {count(odd.lines, 'line')} of metrics.jsonl.")
    if odd.names:
        notes.append(f"Only the first {len(reader.curves)} kinds of numbers are shown.")
    return Curves(panels(reader.curves), " ".join(notes))
