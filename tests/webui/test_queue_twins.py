"""A button that is clicked twice makes one job, and never one less than was meant."""

from __future__ import annotations

import threading

import pytest
from queue_parts import Nobody, act

from tuner.errors import UsageError
from webui.jobs import Queue, database
from webui.jobs.twins import ONCE
from webui.workspace import Workspace


@pytest.fixture
def queue(tmp_path) -> Queue:
    """Nobody works on it."""
    workspace = Workspace.open(tmp_path / "workspace")
    return Queue(workspace, Nobody(workspace))


def put(queue: Queue, name: str, **values) -> None:
    with database.writing(queue.workspace.database) as connection:
        for column, value in values.items():
            connection.execute(f"UPDATE job SET {column}=? WHERE id=?", (value, name))


def packed(*more: str):
    """Words that name the job's own folder."""
    return lambda folder: ["package", "--json", *more, f"--out={folder / 'files' / 'x.zip'}", "--", "/w/runs/dog-1"]


@pytest.mark.parametrize("kind", sorted(ONCE))
@pytest.mark.parametrize("state", ["queued", "running"])
def test_the_same_again_is_the_one_that_is_there(queue, kind, state):
    first = queue.add(kind, "x", packed("--step=5"), device="none", run="dog-1")
    put(queue, first.id, state=state, asked=None)
    again = queue.add(kind, "x", packed("--step=5"), device="none", run="dog-1")
    assert (again.id, again.state) == (first.id, state)
    assert [one.name for one in queue.workspace.jobs.iterdir()] == [first.id], "a folder without a job is left"


@pytest.mark.parametrize(
    ("kind", "words", "more"),
    [
        ("package", packed("--step=6"), {}),
        ("publish", packed("--step=5"), {}),
        ("package", packed("--step=5"), {"run": "cat-1"}),
        ("package", packed("--step=5"), {"files": {"note.txt": "x"}}),
    ],
    ids=["words", "kind", "run", "files"],
)
def test_what_differs_is_another_job(queue, kind, words, more):
    first = queue.add("package", "x", packed("--step=5"), device="none", run="dog-1")
    other = queue.add(kind, "x", words, device="none", **{"run": "dog-1", **more})
    assert other.id != first.id
    assert {one.name for one in queue.workspace.jobs.iterdir()} == {first.id, other.id}


@pytest.mark.parametrize("values", [{"state": "done"}, {"state": "cancelled"}, {"state": "running", "asked": 1.0}])
def test_what_has_ended_or_is_about_to_is_done_again(queue, values):
    first = queue.add("package", "x", packed(), device="none", run="dog-1")
    put(queue, first.id, **values)
    assert queue.add("package", "x", packed(), device="none", run="dog-1").id != first.id


def test_kinds_that_nobody_vouched_for_are_done_as_often_as_asked(queue):
    assert queue.add("export", "x", act("")).id != queue.add("export", "x", act("")).id


def test_of_two_trainings_in_one_place_the_second_is_refused(queue):
    place = queue.workspace.runs / "demo-1"
    words = ["quickstart", "--json", "--run-dir", str(place), "--"]
    queue.add("quickstart", "The demo", words)
    with pytest.raises(UsageError, match="in the queue already"):
        queue.add("quickstart", "The demo", words)


def test_clicks_at_the_same_moment_are_one_job(queue):
    found, gate = [], threading.Barrier(6)

    def click() -> None:
        gate.wait()
        found.append(queue.add("package", "x", packed(), device="none", run="dog-1").id)

    clicks = [threading.Thread(target=click) for _ in range(6)]
    for one in clicks:
        one.start()
    for one in clicks:
        one.join(60)
    assert len(found) == 6
    assert len(set(found)) == 1
    assert [one.name for one in queue.workspace.jobs.iterdir()] == [found[0]]
