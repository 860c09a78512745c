"""Workers and jobs as real processes: killed, raced and stopped in every order, no job is lost and none runs twice."""

from __future__ import annotations

import os
import platform
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from queue_parts import (
    ACT,
    QUICK,
    STAND_IN,
    Nobody,
    act,
    clear,
    dismiss,
    ended,
    kill_worker,
    python,
    running,
    say,
    until,
)

from tuner.control import Control
from tuner.errors import UsageError
from tuner.lock import Lock
from tuner.status import Status, write_status
from webui.jobs import Queue, Workers, database, ensure_worker, reconcile
from webui.jobs.launch import holder, lock_file, worker_log, workers_of
from webui.jobs.reconcile import UNCLAIMED_S
from webui.jobs.worker import Habits, Worker
from webui.workspace import Workspace

PROGRAM = (sys.executable, "-c", ACT)
TOKEN = "hf_" + "Q" * 34
ALONE = """
import os, time
from pathlib import Path
mark = Path({mark!r})
mark.mkdir()                    # fails where another job is in here
time.sleep({seconds})
mark.rmdir()
with open({trace!r}, "a") as file:
    file.write({name!r} + "\\n")
print('{{"ok": true}}')
"""


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def queue(workspace):
    """Its workers run the stand-in, look often and end soon."""
    workers = Workers(workspace, [*QUICK, *STAND_IN])
    made = Queue(workspace, workers, patience_s=0.6)
    yield made
    dismiss(workers)  # a test may have given it others
    clear(made)


@pytest.fixture
def alone(workspace):
    """Code of a job that fails if another one like it runs at the same time, and writes its name down at its end."""
    mark, trace = workspace.root / "mark", workspace.root / "trace"

    def code(name: str, seconds: float = 0.05) -> str:
        return ALONE.format(mark=str(mark), trace=str(trace), name=name, seconds=seconds)

    code.trace = lambda: trace.read_text().split() if trace.exists() else []  # type: ignore[attr-defined]
    return code


def row(queue: Queue, name: str, **values) -> None:
    with database.writing(queue.workspace.database) as connection:
        for column, value in values.items():
            connection.execute(f"UPDATE job SET {column}=? WHERE id=?", (value, name))


def test_jobs_run_in_turn_and_say_how_they_ended(queue, alone):
    names = [queue.add("export", f"job {number}", act(alone(str(number)))).id for number in range(3)]
    bad = queue.add("export", "bad", act(say({"error": {"kind": "data", "message": "no pictures", "hint": "add"}})))
    assert [ended(queue, name).state for name in names] == ["done"] * 3
    assert alone.trace() == ["0", "1", "2"]
    assert queue.answer(names[0]) == {"ok": True}
    failed = ended(queue, bad.id)
    assert (failed.state, failed.reason, failed.hint) == ("failed", "no pictures", "add")
    assert 0 <= failed.seconds < 60


def test_words_reach_the_command_as_they_are(queue):
    nasty = '\'; rm -rf ~; $(touch owned) `touch owned` \n\t\\ "é狗" * ? ~ -- --json'
    job = queue.add("generate", nasty, act("import sys, json; print(json.dumps(sys.argv[1:-1]))", nasty, "", "-x"))
    assert ended(queue, job.id).state == "done"
    assert queue.answer(job.id) == {"answer": ["act", "--json", nasty, "", "-x", "--"]}
    assert not (queue.workspace.root / "owned").exists()


def test_the_real_commands_answer(workspace):
    workers = Workers(workspace, QUICK)
    try:
        queue = Queue(workspace, workers)
        (workspace.root / "tuner.py").write_text("raise SystemExit('taken for the program')")
        good = queue.add("list", "recipes", ("ls", "--json"))
        bad = queue.add(
            "check", "a draft", lambda folder: ("check", "--json", f"{folder}/recipe.yaml"),
            files={"recipe.yaml": "backbon: sd15\n"},
        )  # fmt: skip
        assert ended(queue, good.id).state == "done", queue.log(good.id)
        assert queue.answer(good.id)
        failed = ended(queue, bad.id)
        assert failed.state == "failed"
        assert "backbon" in failed.reason
        assert "recipe.yaml:1" in failed.reason
    finally:
        dismiss(workers)


def test_two_workers_that_race_for_a_device_are_one(queue, alone, workspace):
    queue.workers = Nobody(workspace)
    names = [queue.add("export", str(number), act(alone(str(number)))).id for number in range(5)]
    left, right = Workers(workspace, [*QUICK, *STAND_IN]), Workers(workspace, [*QUICK, *STAND_IN])
    try:
        assert left.ensure("cpu")
        right.ensure("cpu")
        assert [ended(queue, name).state for name in names] == ["done"] * 5
        assert alone.trace() == [str(number) for number in range(5)]
    finally:
        dismiss(left)
        dismiss(right)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_job_outlives_its_worker_and_is_adopted(queue, alone, number):
    gate = queue.workspace.root / "gate"
    wait = f"import time, os\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
    first = queue.add("generate", "first", act(wait + alone("first")))
    then = queue.add("generate", "then", act(alone("then")))
    pid = running(queue, first.id).pid
    dead = kill_worker(queue, number=number)
    assert until(lambda: queue.refresh() or holder(queue.workspace, "cpu")) != dead
    time.sleep(0.3)  # so that the new worker has looked around
    assert queue.job(first.id).pid == pid
    assert queue.job(then.id).state == "queued"
    gate.touch()
    assert [ended(queue, job.id).state for job in (first, then)] == ["done", "done"]
    assert alone.trace() == ["first", "then"]


def test_a_killed_job_is_interrupted_and_frees_the_queue(queue):
    noisy = f"import sys, time; print(f'step 3 of 9 {TOKEN}', file=sys.stderr, flush=True); time.sleep(99)"
    job = queue.add("generate", "a", act(noisy.replace(TOKEN, "hf_' + 'Q' * 34 + '")))
    then = queue.add("generate", "b", act(say({})))
    until(lambda: queue.log(job.id))
    os.kill(running(queue, job.id).pid, signal.SIGKILL)
    killed = ended(queue, job.id)
    assert killed.state == "interrupted"
    assert killed.reason.endswith("its log ends with: step 3 of 9 hf_***")
    assert killed.hint
    assert ended(queue, then.id).state == "done"


def test_a_row_whose_pid_is_another_process_now_is_dead(queue):
    queue.workers = Nobody(queue.workspace)
    job = queue.add("generate", "a", act(""))
    me = psutil.Process()
    row(queue, job.id, state="running", started=time.time(), pid=me.pid, pid_create_time=me.create_time())
    assert queue.job(job.id).state == "running"
    row(queue, job.id, pid_create_time=me.create_time() - 100)
    assert queue.job(job.id).state == "interrupted"
    assert reconcile(queue.workspace) == []


def test_a_clock_that_was_set_ends_no_job(queue):
    """Create times are counted from the moment of booting, which moves with the clock."""
    job = queue.add(
        "generate", "a", act("import time; print('on', file=__import__('sys').stderr, flush=True); time.sleep(99)")
    )
    then = queue.add("generate", "b", act(say({})))
    until(lambda: queue.log(job.id))
    row(queue, job.id, pid_create_time=running(queue, job.id).pid_create_time - 3600)
    time.sleep(0.3)  # so that the worker has looked, too
    assert queue.job(job.id).state == "running"
    assert queue.job(then.id).state == "queued"
    queue.kill(job.id)
    assert ended(queue, job.id).state == "stopped"
    assert ended(queue, then.id).state == "done"


def test_a_pid_that_is_another_process_now_is_not_stopped(queue):
    queue.workers = Nobody(queue.workspace)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        for call in ("stop", "kill"):
            job = queue.add("generate", "a", act(""))
            born = psutil.Process(other.pid).create_time()
            row(queue, job.id, state="running", started=time.time(), pid=other.pid, pid_create_time=born - 100)
            if call == "kill":
                queue.kill(job.id)
            else:
                row(queue, job.id, asked=time.time() - 100)
                queue.refresh()
        assert other.poll() is None
        other.communicate(b"\n", timeout=60)
    assert other.returncode == 0


def test_a_job_is_stopped(queue):
    job = queue.add("generate", "a", act("import time; time.sleep(99)"))
    running(queue, job.id)
    until(lambda: (queue.folder(job.id) / "log.txt").exists())
    assert queue.stop(job.id).asked
    stopped = ended(queue, job.id)
    assert stopped.state == "stopped"
    with pytest.raises(Exception, match="nothing to stop"):
        queue.stop(job.id)


def test_a_job_that_does_not_stop_is_killed_with_its_children(queue):
    deaf = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
        "print(child.pid, file=sys.stderr, flush=True); time.sleep(99)"
    )
    job = queue.add("generate", "a", act(deaf))
    child = int(until(lambda: queue.log(job.id)))
    queue.stop(job.id)
    assert queue.job(job.id).state == "running"
    assert ended(queue, job.id).state == "stopped"
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("state", "now", "asked"),
    [("training", False, "stop"), ("sampling", True, "stop-now"), ("caching", False, None), ("starting", True, None)],
)
def test_a_run_of_the_command_line_is_stopped_too(queue, state, now, asked):
    """While it makes ready it looks at no commands: a signal is what it heeds."""
    queue.workers = Nobody(queue.workspace)
    place = queue.workspace.runs / "dog-1"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        born = psutil.Process(other.pid).create_time()
        status = Status("dog-1", state, host=platform.node(), pid=other.pid, pid_create_time=born)
        write_status(place / "status.json", status)
        queue.stop_run("dog-1", now=now)
        if asked is None:
            assert other.wait(60) == -signal.SIGTERM
        else:
            assert other.poll() is None
            other.communicate(b"\n", timeout=60)
    assert Control(place).take() == ([asked] if asked else [])
    for run in ("dog-1", "cat-1"):
        with pytest.raises(UsageError, match="not running|no such run"):
            queue.stop_run(run)


def test_of_two_processes_for_one_job_one_becomes_it(queue):
    queue.workers = Nobody(queue.workspace)
    trace = queue.workspace.root / "trace"
    job = queue.add("generate", "a", act(f"open({str(trace)!r}, 'a').write('x'); print('{{}}')"))
    row(queue, job.id, state="running", started=time.time())
    start = [sys.executable, "-m", "webui.jobs.starter", str(queue.workspace.root), job.id, *(sys.executable, "-c")]
    code = "import sys; exec(sys.argv[-1])"
    both = [subprocess.Popen([*start, code], stdin=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(60) for process in both] == [0] * 4
    assert trace.read_text() == "x"
    assert queue.job(job.id).state == "done"
    assert queue.job(job.id).pid in {process.pid for process in both}


def test_what_was_taken_but_never_began_is_begun(queue):
    wake, queue.workers = queue.workers, Nobody(queue.workspace)
    job = queue.add("generate", "a", act(say({})))
    row(queue, job.id, state="running", started=time.time())
    assert queue.job(job.id).state == "running"
    row(queue, job.id, started=time.time() - UNCLAIMED_S - 1)
    assert queue.job(job.id).state == "queued"
    row(queue, job.id, state="running", started=time.time())
    queue.workers = wake
    assert ended(queue, job.id).state == "done"


def test_what_was_stopped_before_it_began_never_begins(queue):
    queue.workers = Nobody(queue.workspace)
    job = queue.add("generate", "a", act("open('begun', 'w')"))
    row(queue, job.id, state="running", started=time.time())
    queue.stop(job.id)
    start = [sys.executable, "-m", "webui.jobs.starter", str(queue.workspace.root), job.id, sys.executable, "-c"]
    subprocess.run([*start, "import sys; exec(sys.argv[-1])"], check=True, cwd=queue.workspace.root, timeout=60,
                   env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
    assert not (queue.workspace.root / "begun").exists()
    assert queue.job(job.id).state == "cancelled"


def test_a_command_that_cannot_be_started_fails(workspace):
    workers = Workers(workspace, [*QUICK, "--program=/no/such/program"])
    try:
        queue = Queue(workspace, workers)
        job = ended(queue, queue.add("generate", "a", act("")).id)
        assert (job.state, job.reason.split(":")[0]) == ("failed", "the command could not be started")
    finally:
        dismiss(workers)


def test_a_process_that_never_claims_its_job_fails_it(queue, monkeypatch):
    queue.workers = Nobody(queue.workspace)
    jobs = [queue.add("generate", "a", act(say({}))) for _ in range(2)]
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert Worker(queue.workspace, "cpu", Habits(idle_s=0.2, poll_s=0.02)).go()
    for job in jobs:
        found = queue.job(job.id)
        assert (found.state, found.reason) == ("failed", "its process could not be started")
        assert str(worker_log(queue.workspace, "cpu")) in found.hint


def test_a_worker_waits_out_a_busy_file(queue, monkeypatch, capfd):
    queue.workers = Nobody(queue.workspace)
    job = queue.add("generate", "a", act(say({})))
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    worker = threading.Thread(target=Worker(queue.workspace, "cpu", Habits(0.5, 0.02, 1, PROGRAM)).go)
    with closing(sqlite3.connect(queue.workspace.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        worker.start()
        until(lambda: "the queue is busy" in capfd.readouterr().err)
        other.execute("ROLLBACK")
    worker.join(60)
    assert queue.job(job.id).state == "done"


def test_a_second_worker_leaves_the_first_alone(queue):
    queue.workers = Nobody(queue.workspace)
    job = queue.add("generate", "a", act(say({})))
    second = Worker(queue.workspace, "cpu", Habits(0.3, 0.02, 1, PROGRAM))
    with Lock(lock_file(queue.workspace, "cpu")):
        assert not second.go()
        assert queue.job(job.id).state == "queued"
    assert second.go()
    assert queue.job(job.id).state == "done"


def test_a_device_has_one_job_at_a_time_whoever_takes_them(queue):
    queue.workers = Nobody(queue.workspace)
    first, second = (queue.add("generate", name, act("")) for name in "ab")
    worker = Worker(queue.workspace, "cpu", Habits())
    taken = worker._take()
    assert taken is not None
    assert taken.id == first.id
    assert worker._take() is None
    row(queue, first.id, state="done")
    assert (worker._take() or first).id == second.id


def test_a_worker_rests_between_looks(queue):
    """Also when its own child has ended and the file was busy, so that nobody has seen to that yet."""
    worker = Worker(queue.workspace, "cpu", Habits(poll_s=0.2))
    with subprocess.Popen([sys.executable, "-c", ""]) as over:
        over.wait()
        worker._child = ("0" * 16, over)
        began = time.monotonic()
        worker._wait()
        assert time.monotonic() - began >= 0.2


def test_a_job_that_comes_while_a_worker_goes_is_done(queue):
    queue.workers = Nobody(queue.workspace)

    class Late(Worker):
        """Is given a job when it has stopped looking, but still holds the lock."""

        made: str | None = None

        def _work(self) -> None:
            super()._work()
            self.made = self.made or queue.add("export", "late", act(say({}))).id

    worker = Late(queue.workspace, "cpu", Habits(0.3, 0.02, 1, PROGRAM))
    assert worker.go()
    assert worker.made is not None
    assert queue.job(worker.made).state == "done"


def test_a_worker_ends_when_idle_and_another_comes_with_the_next_job(queue):
    ended(queue, queue.add("export", "a", act(say({}))).id)
    first = until(lambda: holder(queue.workspace, "cpu"))
    until(lambda: holder(queue.workspace, "cpu") is None)
    process, _ = queue.workers._started["cpu"]
    assert process.wait(60) == 0
    assert process.pid == first
    assert ended(queue, queue.add("export", "b", act(say({}))).id).state == "done"


def test_what_computes_nothing_does_not_wait_for_a_training(queue):
    training = queue.add("generate", "a", act("import time; time.sleep(99)"))
    running(queue, training.id)
    assert ended(queue, queue.add("publish", "b", act(say({})), device="none").id).state == "done"
    assert queue.job(training.id).state == "running"
    queue.kill(training.id)
    assert ended(queue, training.id).state == "stopped"


SERVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, "tests/webui")
from queue_parts import ACT, QUICK, STAND_IN, act
from tuner.control import Control
from tuner.errors import UsageError
from tuner.lock import Lock
from tuner.status import Status, write_status
from webui.jobs import Queue, Workers
from webui.workspace import Workspace
workspace = Workspace.open(Path(sys.argv[1]))
queue = Queue(workspace, Workers(workspace, [*QUICK, *STAND_IN]))
for number in range(2):
    queue.add("generate", "a", act(sys.argv[2]))
while queue.jobs()[-1].pid is None:
    time.sleep(0.02)
print("begun", flush=True)
time.sleep(99)
"""


def test_jobs_outlive_the_server_that_began_them(queue, workspace):
    with python(SERVER, str(workspace.root), say({}, after=0.5)) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "begun\n"
        server.kill()
        server.wait()
    queue.workers = Nobody(workspace)  # nobody is there to start another worker
    names = [job.id for job in queue.jobs()]
    assert len(names) == 2
    assert [ended(queue, name).state for name in names] == ["done", "done"]
    until(lambda: holder(workspace, "cpu") is None)


SPILL = "import os, sys; print(os.environ.get('HF_TOKEN'), file=sys.stderr); print('{\"token\": \"%s\"}' % os.environ.get('HF_TOKEN'))"


def test_the_token_reaches_only_who_needs_it_and_no_file(queue, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    told = {
        kind: ended(queue, queue.add(kind, kind, act(SPILL)).id)
        for kind in ("publish", "export")
    }  # fmt: skip
    assert [job.state for job in told.values()] == ["done", "done"]
    assert queue.answer(told["publish"].id) == {"token": "hf_***"}
    assert queue.answer(told["export"].id) == {"token": "None"}
    assert queue.log(told["publish"].id) == "hf_***"
    for path in queue.workspace.root.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path


def test_standing_streams_are_files(queue):
    look = "import os, json; print(json.dumps([os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)] + [os.getcwd(), os.getsid(0) == os.getpid()]))"
    job = queue.add("export", "a", act(look))
    ended(queue, job.id)
    folder, root = queue.folder(job.id), queue.workspace.root
    found = {"answer": ["/dev/null", f"{folder}/result.json", f"{folder}/log.txt", str(root), True]}
    assert queue.answer(job.id) == found


def test_one_call_starts_the_usual_worker(workspace):
    assert ensure_worker(workspace, "none")
    pid = until(lambda: holder(workspace, "none"))
    assert os.getsid(pid) == pid  # a Ctrl-C in the server's terminal does not reach it
    assert not ensure_worker(workspace, "none")
    assert Queue(workspace).workers is workers_of(workspace)
    dismiss(workers_of(workspace))


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_many_killed_workers_lose_nothing_and_double_nothing(queue, alone, kills):
    """Kills at drawn moments, also between taking a job and its start."""
    import random

    draw = random.Random(kills)
    names = [queue.add("export", str(number), act(alone(str(number), 0.25))).id for number in range(2 * kills)]
    for _ in range(kills):
        until(lambda: queue.refresh() or holder(queue.workspace, "cpu"))
        time.sleep(draw.random() * 0.6)
        if holder(queue.workspace, "cpu") is not None:
            kill_worker(queue)
    assert [ended(queue, name).state for name in names] == ["done"] * len(names)
    assert alone.trace() == [str(number) for number in range(2 * kills)]
