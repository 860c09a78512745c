"""Writes down what a run does: status.json, metrics.jsonl, log.txt and the index of its samples."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
import traceback
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from . import atomic
from .best import Best
from .errors import Stopped, StorageError, TunerError
from .lines import LineWriter, metric_rows
from .redact import redact
from .status import LIVE, Fault, Status, of_this_process, process_memory_mb, write_status
from .watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .rundir import RunDir

_TICK_S = 0.5
"""How often progress reaches the disk; a change of state does at once."""
_BEAT_S = 5.0
"""How often the heartbeat is renewed while nothing else happens."""
_WINDOW_S = 30.0
"""Span over which speed is measured."""


class Recorder(Watcher):
    """Records one run. As a context manager it also records how the run ended: done, stopped or failed, and why.

    Progress costs the loop an assignment: a thread of its own writes it out, and keeps the heartbeat while a long
    step or a long encoding says nothing.
    """

    def __init__(self, run: RunDir, *, step: int = 0, total: int | None = None) -> None:
        self.run = run
        self._metrics = LineWriter(run.metrics_file)
        self._log = LineWriter(run.log_file)
        self._guard = threading.RLock()
        self._status = of_this_process(run.path.name, step=step, total=total)
        self._marks: deque[tuple[float, int]] = deque()
        self._device_mb: float | None = None
        self._written: tuple[float, Status | None] = (0.0, None)
        self._over = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="status", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self.end("done")
        elif isinstance(error, Stopped | KeyboardInterrupt | SystemExit):
            self.end("stopped")
        else:
            self.fail(error)

    @property
    def status(self) -> Status:
        with self._guard:
            return self._status

    # What a Watcher sees

    def say(self, text: str) -> None:
        self._note(text)

    def warn(self, text: str) -> None:
        self._note(f"warning: {text}")

    def phase(self, name: str, total: int | None = None, done: int = 0) -> None:
        fields: dict[str, Any] = {"phase": name, "phase_total": total, "phase_done": done, "eta_s": None}
        if name in LIVE:
            fields["state"] = name
        if name == "training":
            fields |= {"step": done, "total": self._status.total if total is None else total}
        with self._guard:
            self._marks.clear()
            self._change(**fields)
        self._note(name if total is None else f"{name}: {done} of {total}")

    def progress(self, done: int) -> None:
        with self._guard:
            fields: dict[str, Any] = {"phase_done": done}
            if self._status.phase == "training":
                fields["step"] = done
            self._status = dataclasses.replace(self._status, **fields)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._metrics.append_json(metric_rows(step, values))
        if "memory_mb" in values:
            self._device_mb = round(float(values["memory_mb"]), 1)
        self._note(f"step {step}: " + ", ".join(f"{name} {value:.6g}" for name, value in values.items()))

    def samples(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        place = self.run.samples / str(step)
        rows = [
            {"index": index, "prompt": prompt, "file": file.name, "step": step}
            for index, (prompt, file) in enumerate(pictures)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        atomic.write(place / "index.jsonl", redact(text))
        self._note(f"step {step}: {len(rows)} samples in {place}")

    def saved(self, step: int, files: Sequence[Path]) -> None:
        for file in files:
            self._note(f"step {step}: saved {file}")

    def best(self, step: int, loss: float) -> None:
        self._change(best=Best(step, loss))

    def close(self) -> None:
        """Stop writing. A run that nobody ended reads as interrupted once its process is gone."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    # How it ends

    def end(self, state: str) -> None:
        """The run is `done` or `stopped`. Raises: StorageError."""
        try:
            self._change(state=state, phase=state, eta_s=None, error=None)
            self._note(state)
        finally:
            self.close()

    def fail(self, error: BaseException) -> None:
        """The run ended by `error`; one that is no TunerError is a fault of ours and its traceback goes to log.txt.

        Raises nothing of its own: when the disk is full there is nowhere to write that down.
        """
        if isinstance(error, TunerError):
            fault = Fault(error.kind, error.message, error.hint)
        else:
            fault = Fault("bug", f"{type(error).__name__}: {error}", f"the traceback is in {self.run.log_file}")
        lines = [f"failed: {fault.message}"] + ([f"-> {fault.hint}"] if fault.hint else [])
        if fault.kind == "bug":
            lines += "".join(traceback.format_exception(error)).splitlines()
        try:
            for write in (partial(self._change, state="failed", eta_s=None, error=fault), partial(self._note, *lines)):
                with contextlib.suppress(StorageError):
                    write()
        finally:
            self.close()

    # Writing

    def _note(self, *lines: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        with self._guard:
            self._log.append([f"{stamp} {part}" for line in lines for part in line.splitlines() or [""]])

    def _change(self, **fields: Any) -> None:
        with self._guard:
            self._status = dataclasses.replace(self._status, **fields)
            self._write()

    def _write(self) -> None:
        """Write the status with a fresh heartbeat. Raises: StorageError."""
        with self._guard:
            seen = self._status
            memory = {"process": process_memory_mb(), "device": self._device_mb}
            self._status = dataclasses.replace(
                seen,
                heartbeat=round(time.time(), 3),
                memory={place: size for place, size in memory.items() if size is not None},
                **self._speed(),
            )
            write_status(self.run.status_file, self._status)
            self._written = (time.monotonic(), self._status)

    def _speed(self) -> dict[str, Any]:
        """Speed and time left of the phase, from the progress of the last half minute."""
        now, status = time.monotonic(), self._status
        if status.state not in LIVE or status.phase_total is None:
            return {}
        if not self._marks or self._marks[-1][1] != status.phase_done:
            self._marks.append((now, status.phase_done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW_S:
            self._marks.popleft()
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        if last <= first or end <= start:
            return {}
        rate = (last - first) / (end - start)
        eta = {"eta_s": round(max(0.0, (status.phase_total - status.phase_done) / rate - (now - end)), 1)}
        return eta | {"it_s": round(rate, 4)} if status.phase == "training" else eta

    def _beat(self) -> None:
        while not self._over.wait(_TICK_S):
            with self._guard:
                since, last = self._written
                if self._over.is_set() or (self._status is last and time.monotonic() - since < _BEAT_S):
                    continue
                try:
                    self._write()
                except StorageError:  # the run's own next write meets the same fault and reports it
                    self._written = (time.monotonic(), self._status)
