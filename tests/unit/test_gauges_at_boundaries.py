"""A gauge looks in the step that ends a log interval, and in no other that is logged."""

from __future__ import annotations

from types import SimpleNamespace as Plain

import pytest
import torch

from tuner.boundaries import Actions, Boundary
from tuner.optim.guard import Guard
from tuner.processes import Processes
from tuner.training import Tally
from tuner.watch import Watcher


class Step:
    """A gauge that reads the number of the last step that it was open for."""

    name = "last_step"

    def __init__(self) -> None:
        self.open = False
        self.now = 0
        self.watched: list[int] = []

    def begin(self) -> None:
        self.open = True

    def step(self, number: int) -> None:
        self.now = number
        if self.open:
            self.watched.append(number)

    def end(self) -> torch.Tensor | None:
        found = torch.tensor(float(self.now)) if self.open else None
        self.open = False
        return found


class Listener(Watcher):
    def __init__(self) -> None:
        self.lines: dict[int, dict] = {}

    def metrics(self, step, values):
        self.lines[step] = dict(values)


def run(steps: int, every: int, *, start: int = 0, stop_at: int | None = None, gauges=()) -> Listener:
    cpu, listener, signal = torch.device("cpu"), Listener(), [None]
    never = Plain(every=None)
    boundary = Boundary(
        Plain(log=Plain(every=every), validation=None, sample=never, save=never, train=Plain(max_bad_steps=5)),
        Plain(guard=Guard(cpu, scaled=False), tally=Tally(cpu, []), groups=[], optimizer=Plain(param_groups=[])),
        Actions(*[lambda step: None] * 3, commands=list, signal=lambda: signal[0], files=lambda step: []),
        listener,
        Processes(),
        steps,
        steps,
        gauges,
    )
    boundary.begin()
    for done in range(start + 1, steps + 1):
        for gauge in gauges:
            gauge.step(done)
        signal[0] = 15 if done == stop_at else None
        if boundary(done):
            break
    return listener


@pytest.mark.parametrize("every", [1, 3, 10])
def test_each_line_has_the_number_of_its_own_step(every):
    listener = run(7, every, gauges=[Step()])
    assert listener.lines.keys() == {*range(every, 8, every), 7}
    assert {step: line["last_step"] for step, line in listener.lines.items()} == {step: step for step in listener.lines}


def test_it_looks_at_no_step_in_between_but_the_first():
    gauge = Step()
    run(9, 3, gauges=[gauge])
    assert gauge.watched == [1, 3, 6, 9], "whether the first ends an interval is not known before it"


def test_a_run_that_goes_on_logs_it_too():
    assert run(9, 3, start=2, gauges=[Step()]).lines[3]["last_step"] == 3


def test_a_line_written_where_a_run_is_stopped_lacks_it():
    listener = run(9, 4, stop_at=6, gauges=[Step()])
    assert "last_step" in listener.lines[4]
    assert "last_step" not in listener.lines[6]


def test_without_a_gauge_lines_have_nothing_more():
    with_one, without = (run(3, 3, gauges=gauges).lines[3] for gauges in ([Step()], []))
    assert with_one.keys() - without.keys() == {"last_step"}
