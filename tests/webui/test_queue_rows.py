"""The queue's file: what gets in, in which order it comes out, and what is said where the file cannot be used."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import threading
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from queue_parts import Nobody, act, python

from tuner.errors import LockedError, StorageError, UsageError
from webui.jobs import ENDED, STATES, UNFINISHED, Queue, database, devices
from webui.jobs import queue as queue_module
from webui.workspace import UnknownId, Workspace

TOKEN = "hf_" + "Q" * 34


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def queue(workspace) -> Queue:
    """Nobody works on it."""
    return Queue(workspace, Nobody(workspace))


def put(queue: Queue, name: str, state: str, **more) -> None:
    with database.writing(queue.workspace.database) as connection:
        for column, value in {"state": state, **more}.items():
            connection.execute(f"UPDATE job SET {column}=? WHERE id=?", (value, name))


def leftovers(queue: Queue) -> list[str]:
    return [entry.name for entry in queue.workspace.jobs.iterdir() if entry.is_dir()]


def test_a_job_comes_back_as_it_was_put_in(queue):
    said = "a dog; rm -rf ~ $(id) `id`\n--json é 狗 \"'"
    made = queue.add("generate", f" two\n lines {said}", act(said), run="dog-1", device="cpu")
    assert queue.job(made.id) == made
    assert made.words == act(said)
    assert (made.state, made.device, made.run, made.title.splitlines()) == ("queued", "cpu", "dog-1", [made.title])
    assert not made.ended
    assert made.seconds is None


def test_words_can_name_the_files_that_the_job_owns(queue):
    made = queue.add(
        "train",
        "dog",
        lambda folder: ["check", "--json", str(folder / "recipe.yaml")],
        files={"recipe.yaml": "task: finetune # é\n"},
    )
    file = queue.folder(made.id) / "recipe.yaml"
    assert made.words[-1] == str(file)
    assert file.read_text(encoding="utf-8") == "task: finetune # é\n"


def test_the_folder_is_there_when_its_words_are_made(queue):
    def words(folder):
        (folder / "files").mkdir()
        return act("", str(folder))

    made = queue.add("package", "x", words)
    assert (queue.folder(made.id) / "files").is_dir()

    def broken(folder):
        raise UsageError("no such save")

    with pytest.raises(UsageError, match="no such save"):
        queue.add("package", "x", broken)
    assert leftovers(queue) == [made.id]


def test_only_its_owner_can_read_the_queue(queue):
    queue.add("export", "x", act(""))
    assert stat.S_IMODE(queue.workspace.database.stat().st_mode) == 0o600
    assert all(stat.S_IMODE((queue.workspace.jobs / name).stat().st_mode) == 0o700 for name in leftovers(queue))


def test_the_newest_is_listed_first_and_the_oldest_runs_first(queue):
    names = [queue.add("export", str(number), act("")).id for number in range(4)]
    assert [job.id for job in queue.jobs()] == names[::-1]
    assert [job.id for job in queue.waiting()] == names
    first = queue.add("export", "ahead", act(""), ahead=True)
    assert [job.id for job in queue.waiting()] == [first.id, *names]


def test_the_list_can_be_narrowed(queue):
    draw = queue.add("generate", "a", act(""), run="dog-1")
    send = queue.add("publish", "b", act(""), device="none", run="dog-1")
    queue.cancel(queue.add("generate", "c", act("")).id)
    assert [job.id for job in queue.jobs(kinds=["generate"], states=["queued"])] == [draw.id]
    assert [job.id for job in queue.jobs(run="dog-1")] == [send.id, draw.id]
    assert [job.id for job in queue.jobs(limit=1, run="dog-1")] == [send.id]
    assert [job.id for job in queue.waiting("none")] == [send.id]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.tuples(st.integers(0, 4), st.integers(-7, 7)), max_size=5))
def test_moving_is_moving_in_a_list(tmp_path_factory, moves):
    workspace = Workspace.open(tmp_path_factory.mktemp("moves"))
    queue = Queue(workspace, Nobody(workspace))
    names = [queue.add("export", str(number), act("")).id for number in range(5)]
    other = queue.add("publish", "elsewhere", act(""), device="none").id
    for which, places in moves:
        at = names.index(name := names[which])
        names.insert(min(max(at + places, 0), 4), names.pop(at))
        assert [job.id for job in queue.move(name, places)] == names
    assert [job.id for job in queue.waiting()] == sorted([*names, other], key=lambda one: queue.job(one).place)


def test_only_what_waits_can_be_cancelled_or_moved(queue):
    name = queue.add("export", "x", act("")).id
    for state in sorted(set(STATES) - {"queued"}):
        put(queue, name, state, pid=os.getpid(), pid_create_time=None)
        with pytest.raises(UsageError, match=f"is {state}, so there is nothing to stop"):
            queue.cancel(name)
        with pytest.raises(UsageError, match="not waiting any more"):
            queue.move(name, 1)
    put(queue, name, "queued")
    assert queue.cancel(name).state == "cancelled"
    assert queue.job(name).finished is not None


def test_stopping_what_waits_takes_it_out(queue):
    assert queue.stop(queue.add("export", "x", act("")).id).state == "cancelled"


@pytest.mark.parametrize("call", ["job", "cancel", "stop", "kill", "resume", "forget", "folder", "answer", "log"])
@pytest.mark.parametrize("name", ["0" * 16, "..", "../runs", "", "a' OR 1=1 --"])
def test_an_id_that_is_none_is_said(queue, call, name):
    queue.add("export", "x", act(""))
    with pytest.raises(UnknownId, match="there is no such job"):
        getattr(queue, call)(name)


@pytest.mark.parametrize("state", sorted(STATES))
def test_only_what_has_ended_is_forgotten(queue, state):
    name = queue.add("export", "x", act("")).id
    put(queue, name, state, pid=os.getpid(), pid_create_time=None)
    if state in UNFINISHED:
        with pytest.raises(UsageError, match=f"still {state}"):
            queue.forget(name)
        assert leftovers(queue) == [name]
    else:
        assert state in ENDED
        queue.forget(name)
        assert leftovers(queue) == []
        assert queue.jobs() == []


@pytest.mark.parametrize(
    ("title", "word", "text", "said"),
    [
        (f"dog {TOKEN}", "", "", "an access token"),
        ("dog", f"a photo {TOKEN}", "", "an access token"),
        ("dog", "", f"token: {TOKEN}", "an access token"),
        ("dog", "a\0b", "", "null character"),
        ("dog", "a\ud800b", "", "broken character"),
        ("dog", "x" * 100_001, "", "too long"),
        ("dog", "", "x" * 1_000_001, "too long"),
    ],
    ids=["title", "word", "file", "null", "surrogate", "long", "long-file"],
)
def test_what_no_command_can_be_given_is_refused_and_leaves_nothing(queue, title, word, text, said):
    with pytest.raises(UsageError, match=said):
        queue.add("generate", title, act(word), files={"recipe.yaml": text})
    assert leftovers(queue) == []
    assert queue.jobs() == []


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (("ls",), {}),
        (("generate", "--", "--json"), {}),
        (("run", "--json", "lora"), {}),
        (("run", "--json", "--run-dir", "/tmp/dog", "lora"), {}),
        (("run", "--json", "lora", "--", "--run-dir=/tmp/dog"), {}),
        (act(""), {"../recipe.yaml": ""}),
        (act(""), {"result.json": ""}),
        (act(""), {".lock": ""}),
    ],
    ids=["no-json", "json-prompt", "no-run-dir", "run-dir-elsewhere", "run-dir-word", "traversal", "result", "hidden"],
)
def test_a_caller_that_asks_for_the_impossible_is_at_fault(queue, words, files):
    with pytest.raises(ValueError, match="job|run"):
        queue.add("x", "x", words, files=files)
    assert leftovers(queue) == []


def test_a_training_belongs_to_the_run_it_writes(queue):
    place = queue.workspace.runs / "dog-1"
    words = ("run", "--json", f"--run-dir={place}", "--", "lora")
    made = queue.add("train", "dog", words)
    assert made.run == "dog-1"
    with pytest.raises(UsageError, match="dog-1 is in the queue already"):
        queue.add("train", "dog again", words)
    queue.add("generate", "try", act(""), run="dog-1")
    queue.cancel(made.id)
    assert queue.add("train", "dog again", words).state == "queued"


def test_an_ended_job_can_be_done_again_in_a_folder_of_its_own(queue):
    first = queue.add(
        "grid",
        "two strengths",
        lambda folder: (
            "grid",
            "--json",
            "--new",
            f"--out={folder}/files",
            "--",
            f"{folder}/recipe.yaml",
            f"a {folder}/x",
            "--new",
        ),
        files={"recipe.yaml": "a: 1"},
        run="dog-1",
    )
    (queue.folder(first.id) / "files").mkdir()
    (queue.folder(first.id) / "log.txt").write_text("old")
    for state in sorted(STATES):
        put(queue, first.id, state, pid=os.getpid(), pid_create_time=None)
        if state in UNFINISHED:
            with pytest.raises(UsageError, match="still"):
                queue.again(first.id)
            continue
        with pytest.raises(UsageError, match="cannot go on"):
            queue.resume(first.id)
        made = queue.again(first.id)
        here, old = queue.folder(made.id), queue.folder(first.id)
        assert made.words == (
            "grid",
            "--json",
            f"--out={here}/files",
            "--",
            f"{here}/recipe.yaml",
            f"a {old}/x",
            "--new",
        )
        assert [path.name for path in here.iterdir()] == ["recipe.yaml"]
        assert (made.state, made.kind, made.title, made.run) == ("queued", "grid", "two strengths", "dog-1")


def test_a_queue_has_an_end(queue, monkeypatch):
    monkeypatch.setattr(queue_module, "MOST_UNFINISHED", 2)
    first = queue.add("export", "1", act(""))
    queue.add("export", "2", act(""))
    with pytest.raises(UsageError, match="2 jobs are waiting already"):
        queue.add("export", "3", act(""))
    queue.cancel(first.id)
    queue.add("export", "3", act(""))


def test_a_device_that_is_not_there_is_refused(queue):
    for device in ("cuda:99", "tpu", "../cpu", "cuda:0;"):
        with pytest.raises(UsageError, match="no device"):
            queue.add("export", "x", act(""), device=device)


def test_work_is_spread_over_the_gpus(queue, monkeypatch):
    monkeypatch.setattr(queue_module, "devices", lambda: ("cuda:0", "cuda:1", "cpu"))
    assert [queue.add("export", "x", act("")).device for _ in range(4)] == ["cuda:0", "cuda:1"] * 2
    monkeypatch.setattr(queue_module, "devices", lambda: ("cpu",))
    assert queue.add("export", "x", act("")).device == "cpu"


ADDER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/webui")
from queue_parts import Nobody, act
from webui.jobs import Queue
from webui.workspace import Workspace
workspace = Workspace.open(Path(sys.argv[1]))
queue = Queue(workspace, Nobody(workspace))
print("ready", flush=True)
for number in range(15):
    queue.add("export", f"{sys.argv[2]} {number}", act(""))
"""


def test_two_servers_that_begin_together_lose_nothing(tmp_path):
    root = tmp_path / "workspace"
    servers = [python(ADDER, str(root), name) for name in ("left", "right")]
    for server in servers:
        assert server.communicate(timeout=60)[0] == "ready\n"
    workspace = Workspace.open(root)
    found = Queue(workspace, Nobody(workspace)).waiting()
    assert len({job.id for job in found}) == len({job.place for job in found}) == 30
    for name in ("left", "right"):
        assert [job.title for job in found if job.title.startswith(name)] == [f"{name} {n}" for n in range(15)]


def test_threads_of_a_server_lose_nothing(queue):
    threads = [threading.Thread(target=lambda: [queue.add("export", "x", act("")) for _ in range(5)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.place for job in queue.waiting()}) == 30


def test_a_locked_file_is_said_in_plain_words(queue, monkeypatch):
    queue.add("export", "x", act(""))
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    with closing(sqlite3.connect(queue.workspace.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LockedError, match="the queue is busy") as caught:
            queue.add("export", "y", act(""))
    assert caught.value.hint
    assert len(leftovers(queue)) == 1
    assert queue.add("export", "y", act("")).state == "queued"


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at as one" * 20, b"\0" * 8192])
def test_a_damaged_file_is_said_in_plain_words(workspace, content):
    workspace.database.write_bytes(content)
    with pytest.raises(StorageError, match="damaged") as caught:
        Queue(workspace, Nobody(workspace)).jobs()
    assert "move it away" in caught.value.hint


def test_a_newer_file_is_left_alone(queue):
    queue.jobs()
    with closing(sqlite3.connect(queue.workspace.database)) as other:
        other.execute("PRAGMA user_version=99")
    with pytest.raises(UsageError, match="another version"):
        queue.jobs()


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, "tests/webui")
from queue_parts import Nobody, act
from tuner.errors import StorageError
from webui.jobs import Queue
from webui.workspace import Workspace
workspace = Workspace.open(Path(sys.argv[1]))
queue = Queue(workspace, Nobody(workspace))
queue.add("export", "first", act(""))
size = 1 + max(path.stat().st_size for path in workspace.root.glob("tuner.db*"))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
try:
    for number in range(200):
        queue.add("export", "more", act("x" * 4000))
except StorageError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
rows, folders = len(queue.jobs(limit=999)), sum(entry.is_dir() for entry in workspace.jobs.iterdir())
assert rows == folders, (rows, folders)
"""


def test_a_full_disk_is_said_in_plain_words_and_leaves_the_queue_whole(tmp_path):
    said = python(FULL_DISK, str(tmp_path / "workspace")).communicate(timeout=60)[0]
    assert said.startswith("cannot use "), said
    assert "free space on that disk" in said
    assert "Traceback" not in said


def test_a_folder_that_cannot_be_used_is_said(tmp_path):
    workspace = Workspace(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="cannot use"):
        Queue(workspace, Nobody(workspace)).jobs()


def test_the_cpu_is_always_there():
    assert devices()[-1] == "cpu"


def test_an_answer_is_whole_or_none(queue):
    name = queue.add("export", "x", act("")).id
    file = queue.folder(name) / "result.json"
    assert queue.answer(name) is None
    whole = json.dumps({"file": "a.safetensors", "more": [1, 2]}, indent=2)
    for end in range(len(whole)):
        file.write_text(whole[:end])
        assert queue.answer(name) is None
    file.write_text(whole + "\n")
    assert queue.answer(name) == {"file": "a.safetensors", "more": [1, 2]}


def test_a_log_is_read_from_its_end_and_without_tokens(queue):
    name = queue.add("export", "x", act("")).id
    assert queue.log(name) == ""
    lines = [f"line {number} {TOKEN} \xe9" for number in range(5000)]
    (queue.folder(name) / "log.txt").write_bytes("\n".join(lines).encode("latin-1"))
    assert queue.log(name, 2).splitlines() == [f"line {n} hf_*** �" for n in (4998, 4999)]
