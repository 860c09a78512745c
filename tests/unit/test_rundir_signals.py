"""The first signal asks, the second Ctrl-C insists; what was there before comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tuner.signals import StopRequests

posix = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_sets_a_flag(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # under `nohup` SIGHUP is ignored, and stays so
    try:
        with StopRequests() as stop:
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested
            assert stop.number == number
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.number == number  # the first one names the exit code
    finally:
        signal.signal(number, before)


@posix
def test_handlers_come_back():
    def mine(*_):
        pass

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    old = [signal.signal(number, mine) for number in numbers]
    try:
        with StopRequests():
            assert all(signal.getsignal(number) is not mine for number in numbers)
        assert all(signal.getsignal(number) is mine for number in numbers)
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)


@posix
def test_nohup_is_respected():
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, old)


def test_other_threads_install_nothing():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with StopRequests() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


CHILD = """
import sys, time
from tuner.signals import StopRequests
with StopRequests() as stop:
    print("ready", flush=True)
    try:
        while True:
            time.sleep(0.01)
            if stop.requested:
                print("asked", flush=True)
                time.sleep(60)
    finally:
        print("unwound", flush=True)
"""


@posix
def test_the_second_interrupt_ends_at_once_without_a_traceback():
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "asked\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=5)
    assert child.returncode == 130
    assert (out, err) == ("", "")


@posix
def test_one_press_that_a_launcher_passes_on_is_one_press(monkeypatch):
    now = [0.0]
    ended = []
    monkeypatch.setattr("tuner.signals._exit_now", lambda: ended.append(True))
    with StopRequests(clock=lambda: now[0]) as stop:
        for now[0] in (5.0, 5.01, 5.09):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        assert not ended
        now[0] = 5.3
        os.kill(os.getpid(), signal.SIGINT)
        assert ended
