"""A real training as a job: killed with and without its worker, stopped and resumed, it ends as it would have."""

from __future__ import annotations

import os
import signal
import time

import pytest
from queue_parts import QUICK, clear, ended, kill_worker, running, until

from tuner.errors import UsageError
from tuner.lines import read_metrics
from tuner.rundir import RunDir
from webui.jobs import Queue, Workers, words
from webui.jobs.launch import holder
from webui.workspace import Workspace

STEPS = 40
CHANGES = (
    f"train.steps={STEPS}",
    "save.every=10",
    "log.every=1",
    "sample.prompts=[]",
    "sample.every=null",
    "data.resolution=32",
)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def queue(workspace):
    made = Queue(workspace, Workers(workspace, QUICK))
    yield made
    clear(made)


def begin(queue: Queue, name: str, **more):
    place = queue.workspace.runs / name
    return queue.add("train", name, words.train("lora", place, changes=CHANGES, rehearse=True, **more)), RunDir(place)


def at_step(queue: Queue, name: str, run: RunDir, step: int) -> None:
    def there() -> bool:
        job = queue.job(name)
        assert not job.ended, (job, queue.log(name))
        status = run.status()
        return status is not None and status.pid == job.pid and status.state == "training" and status.step >= step

    until(there, 120)


def by_kill(queue: Queue, name: str) -> None:
    os.kill(running(queue, name).pid, signal.SIGKILL)


ENDS = {
    "stop": (lambda queue, name: queue.stop(name), "stopped", "holds the state of step"),
    "stop now": (lambda queue, name: queue.stop(name, now=True), "stopped", "holds the state of step 10"),
    "kill": (by_kill, "interrupted", "its log ends with"),
}
"""How a process is ended, the state that follows, and what is said of it."""


@pytest.mark.parametrize("how", ["stop", *(pytest.param(how, marks=pytest.mark.slow) for how in ("stop now", "kill"))])
def test_a_training_whose_worker_is_killed_is_ended_and_goes_on(queue, how):
    end, state, said = ENDS[how]
    job, run = begin(queue, "dog-1")
    at_step(queue, job.id, run, 11)
    pid = queue.job(job.id).pid
    kill_worker(queue)
    assert queue.job(job.id).pid == pid

    end(queue, job.id)
    found = ended(queue, job.id)
    assert (found.state, found.resumable, found.run) == (state, True, "dog-1")
    assert said in found.reason
    assert found.hint

    second = queue.resume(job.id)
    with pytest.raises(UsageError, match="dog-1 is in the queue already"):
        queue.resume(job.id)
    done = ended(queue, second.id, 120)
    assert done.state == "done", (done, queue.log(second.id))
    answer = queue.answer(second.id)
    assert answer is not None
    assert answer["step"] == STEPS
    assert list(read_metrics(run.metrics_file)) == list(range(1, STEPS + 1))
    assert "going on from step" in queue.log(second.id)
    with pytest.raises(UsageError, match="cannot go on"):
        queue.resume(second.id)


def test_a_training_stopped_before_its_first_step_is_stopped(queue):
    job, run = begin(queue, "cat-1", new=True)
    running(queue, job.id)
    until(lambda: (queue.folder(job.id) / "log.txt").exists())
    queue.stop(job.id, now=True)
    stopped = ended(queue, job.id)
    assert stopped.state == "stopped"
    again = queue.resume(job.id)
    assert "--new" in job.words
    assert "--new" not in again.words
    queue.stop(again.id)
    assert ended(queue, again.id).state in ("stopped", "cancelled")
    assert run.status() is None or run.status().state in ("stopped", "interrupted")  # type: ignore[union-attr]


@pytest.mark.slow
def test_twenty_killed_workers_do_not_disturb_one_run(queue):
    job, run = begin(queue, "bird-1")
    pid = running(queue, job.id).pid
    for _ in range(20):
        until(lambda: queue.refresh() or holder(queue.workspace, "cpu"))
        kill_worker(queue)
        found = queue.job(job.id)
        assert (found.pid, found.state) in ((pid, "running"), (pid, "done")), found
        time.sleep(0.1)
    assert ended(queue, job.id, 300).state == "done"
    assert list(read_metrics(run.metrics_file)) == list(range(1, STEPS + 1))
    assert '"resumed"' not in run.journal_file.read_text()
