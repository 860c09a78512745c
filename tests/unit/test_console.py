"""A run on the terminal and in a file: what is shown, how often, and that showing never ends a run."""

from __future__ import annotations

import io
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tuner.console import Console
from tuner.terminal import LINE_S, REFRESH_S, duration, pace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def lines_console(clock):
    stream = io.StringIO()
    return Console(stream, clock), stream


def train(console, clock, steps, each_s, *, log_every=10):
    console.phase("training", steps)
    for step in range(1, steps + 1):
        clock.now += each_s
        if step % log_every == 0:
            console.metrics(step, {"loss": 1 / step, "lr": 1e-4, "it_s": 1 / each_s})
        console.progress(step)


def test_lines_come_by_time_not_by_step(clock):
    console, stream = lines_console(clock)
    train(console, clock, 1000, 0.1)
    console.close()
    lines = stream.getvalue().splitlines()
    assert 1000 * 0.1 / LINE_S - 2 <= len(lines) - 2 <= 1000 * 0.1 / LINE_S
    assert "loss" in lines[1]
    assert "lr 1.0e-04" in lines[1]
    assert "10.0 a second" in lines[1]
    assert "left" in lines[1]


def test_the_time_left_is_that_of_the_steps_to_come(clock):
    console, stream = lines_console(clock)
    console.phase("training", 100, 40)  # gone on from step 40
    for step in range(41, 71):
        clock.now += 1
        console.progress(step)
    assert stream.getvalue().splitlines()[0] == "training: 100 to do, going on from 40"
    assert stream.getvalue().splitlines()[-1] == "training 70 of 100, 1.0 a second, 30 s left"


def test_an_interlude_is_not_announced_twice(clock):
    console, stream = lines_console(clock)
    for step in (0, 10, 20):
        console.phase("sampling", 2)
        console.phase("training", 30, step)
    console.close()
    assert stream.getvalue().splitlines() == ["sampling: 2 to do", "training: 30 to do"]


def test_the_time_of_a_phase_counts_its_interludes(clock):
    console, stream = lines_console(clock)
    for start in (0, 20):
        console.phase("training", 40, start)
        for step in range(start, start + 20):
            clock.now += 1
            console.progress(step + 1)
        console.phase("sampling", 2)
        clock.now += 5
    console.close()
    assert "training 40 of 40 in 45 s" in stream.getvalue()


def test_warnings_are_seen_and_counted(clock):
    for stream in (io.StringIO(), Terminal()):
        console = Console(stream, clock)
        console.phase("training", 10)
        console.warn("[bold]2 captions[/bold] were cut :smile:")
        console.close()
        assert "warning: [bold]2 captions[/bold] were cut :smile:" in stream.getvalue()
        assert console.warnings == 1


def test_tokens_are_never_shown(clock):
    console, stream = lines_console(clock)
    console.say("using hf_" + "a1B2c3D4e5F6g7H8")
    console.warn("using hf_" + "a1B2c3D4e5F6g7H8")
    assert "a1B2" not in stream.getvalue()


def test_samples_and_files_are_named(clock):
    console, stream = lines_console(clock)
    console.samples(200, [("a dog", Path("runs/a/samples/200/0.png"))])
    console.saved(200, [Path("runs/a/x/a.safetensors"), Path("runs/a/x/README.md")])
    assert stream.getvalue().splitlines() == [
        f"step 200: 1 sample in {Path('runs/a/samples/200')}",
        f"step 200: saved a.safetensors in {Path('runs/a/x')}, loaded back and compared",
    ]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_is_gone_ends_nothing(clock, kind):
    class Gone(kind):
        def write(self, text):
            raise BrokenPipeError

    console = Console(Gone(), clock)
    train(console, clock, 100, 1.0)
    console.say("x")
    console.warn("x")
    console.samples(1, [("a", Path("a/b"))])
    console.close()
    console.close()
    assert console.loss == pytest.approx(0.01)


def test_the_bar_moves_by_time(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console = Console(stream, clock)
    console.phase("training", 1000)
    drawn = []
    monkeypatch.setattr(console._face, "draw", lambda phase, now: drawn.append(now))
    for step in range(1, 1001):
        clock.now += 0.01
        console.progress(step)
    assert len(drawn) <= 10 / REFRESH_S
    assert min(b - a for a, b in pairwise(drawn)) >= REFRESH_S - 1e-9


def test_the_bar_shows_loss_lr_speed_and_time_left(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    console = Console(stream, clock)
    train(console, clock, 50, 1.0)
    console.say("a line above the bar")
    console.phase("saving")
    console.close()
    text = stream.getvalue()
    for word in (
        "training",
        "20 of 50",
        "loss 0.0500",
        "lr 1.0e-04",
        "1.0 a second",
        "30 s left",
        "a line above the bar",
    ):
        assert word in text
    assert text.rstrip("\n").endswith("\x1b[?25h") or "\x1b[?25h" in text  # the cursor comes back


def test_what_is_done_at_once_needs_no_bar(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console = Console(stream, clock)
    train(console, clock, 5, 0.01)
    console.warn("look at this")
    console.close()
    assert stream.getvalue() == "training 5 of 5 in 0 s\n\x1b[33mwarning: look at this\x1b[0m\n" or (
        stream.getvalue() == "\x1b[33mwarning: look at this\x1b[0m\ntraining 5 of 5 in 0 s\n"
    )
    assert console._face.progress is None


def test_a_dumb_terminal_gets_lines(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    console = Console(stream, clock)
    console.phase("training", 10)
    assert stream.getvalue() == "training: 10 to do\n"


def test_a_step_costs_next_to_nothing():
    console = Console(io.StringIO())
    console.phase("training", 10**6)
    began = time.perf_counter()
    for step in range(20_000):
        console.progress(step)
    assert (time.perf_counter() - began) / 20_000 < 20e-6


def test_durations_and_paces_read_well():
    assert [duration(s) for s in (4, 99, 100, 3600, 12000)] == ["4 s", "99 s", "2 min", "60 min", "3 h 20 min"]
    assert [pace(r) for r in (12.34, 1, 0.25)] == ["12.3 a second", "1.0 a second", "4.0 s each"]
