"""Files sent to a dataset by HTTP: streamed, limited, judged, and nothing left of those that never arrive."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest
from dropped import encoded, sound, zipped
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tuner.dataset import Dataset
from webui import datasets
from webui.uploads import HEADER, Quota, folder_bytes, routes
from webui.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "w")


@pytest.fixture
def id(workspace):
    return datasets.make(workspace, "my dog")


def app(workspace, **quota):
    return Starlette(routes=routes(workspace, Quota(**quota)))


def dataset_of(workspace, id):
    return Dataset(workspace.dataset(id))


def sent(workspace, id, name, data, *, headers=None, **quota):
    with TestClient(app(workspace, **quota)) as client:
        return client.post(f"/upload/{id}", params={"name": name}, content=data, headers=headers)


def test_a_picture_gets_its_verdict(workspace, id):
    answer = sent(workspace, id, "Hündchen & <b>.png", encoded(1))
    assert answer.status_code == 200
    (verdict,) = answer.json()["verdicts"]
    assert verdict["accepted"]
    assert verdict["name"] == "Hündchen & <b>.png"
    contents, _ = sound(dataset_of(workspace, id))
    assert contents.pictures[0].id == verdict["picture"]


def test_a_name_may_come_in_a_header(workspace, id):
    with TestClient(app(workspace)) as client:
        answer = client.post(f"/upload/{id}", content=encoded(1), headers={HEADER: quote("Ä/ö.png")})
    assert answer.json()["verdicts"][0]["name"] == "ö.png"


def test_what_is_refused_is_an_answer_and_stays_listed(workspace, id):
    answer = sent(workspace, id, "a.heic", b"garbage")
    assert answer.status_code == 200
    assert not answer.json()["verdicts"][0]["accepted"]
    page = datasets.page(workspace, id)
    assert [refused.name for refused in page.refused] == ["a.heic"]


def test_a_zip_gets_a_verdict_for_each_file(workspace, id):
    answer = sent(workspace, id, "a.zip", zipped([("../a.png", encoded(1)), ("../a.txt", b"a dog"), ("b.png", b"x")]))
    assert [(one["name"], one["accepted"]) for one in answer.json()["verdicts"]] == [
        ("a.zip", True),
        ("a.png", True),
        ("b.png", False),
        ("a.txt", True),
    ]
    assert list(sound(dataset_of(workspace, id))[1].values()) == ["a dog"]


@pytest.mark.parametrize("bad", ["0" * 16, "..", "%2e%2e", "x"])
def test_only_to_a_dataset_that_is_there(workspace, id, bad):
    answer = sent(workspace, bad, "a.png", encoded(1))
    assert answer.status_code == 404


def test_only_posting(workspace, id):
    with TestClient(app(workspace)) as client:
        assert client.get(f"/upload/{id}").status_code == 405


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_too_much_is_refused_and_listed(workspace, id, announced):
    data = encoded(1, size=(200, 200))
    body = data if announced else (data[k : k + 1000] for k in range(0, len(data), 1000))
    answer = sent(workspace, id, "big.png", body, file_bytes=10_000)
    assert answer.status_code == 413
    assert "more than the limit" in answer.json()["error"]
    assert answer.json()["verdicts"][0]["name"] == "big.png"
    contents, _ = sound(dataset_of(workspace, id))
    assert [refused.name for refused in contents.refused] == ["big.png"]


def test_too_much_in_the_last_piece_is_answered(workspace, id):
    """Nothing follows the last piece, so nothing may be waited for."""
    answer = sent(workspace, id, "big.png", iter([encoded(1, size=(200, 200))]), file_bytes=10_000)
    assert answer.status_code == 413


def test_the_workspace_has_an_end(workspace, id):
    size = len(encoded(1, size=(100, 100)))
    assert sent(workspace, id, "a.png", encoded(1, size=(100, 100))).status_code == 200
    used = folder_bytes(workspace.datasets)
    assert used > size
    answer = sent(workspace, id, "b.png", encoded(2, size=(100, 100)), datasets_bytes=used + 1000)
    assert answer.status_code == 507
    assert "no room is left" in answer.json()["error"]
    packed = zipped([(f"{n}.png", encoded(n, size=(100, 100))) for n in range(3, 6)])
    answer = sent(workspace, id, "a.zip", packed, datasets_bytes=used + len(packed) + size + 5000)
    reasons = [one["reason"] for one in answer.json()["verdicts"] if not one["accepted"]]
    assert any("no room" in reason for reason in reasons)
    assert folder_bytes(workspace.datasets) < used + len(packed) + size + 10_000
    sound(dataset_of(workspace, id))


def test_a_name_that_is_missing_is_no_fault(workspace, id):
    with TestClient(app(workspace)) as client:
        answer = client.post(f"/upload/{id}", content=encoded(1))
    assert answer.json()["verdicts"][0]["accepted"]


def test_a_broken_dataset_is_told(workspace, id):
    (workspace.dataset(id) / "dataset.json").write_text("{")
    answer = sent(workspace, id, "a.png", encoded(1))
    assert answer.status_code == 409
    assert "dataset.json" in answer.json()["error"]


async def request(app, id, name, pieces, *, cut=False):
    """One request by ASGI: its status and answer; with `cut` the client leaves before the end."""
    told = []
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages += [{"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        await asyncio.sleep(0)
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        told.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/upload/{id}",
        "raw_path": f"/upload/{id}".encode(),
        "query_string": f"name={quote(name)}".encode(),
        "headers": [],
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "app": app,
    }
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in told)
    return told[0]["status"], json.loads(body)


def test_a_hundred_at_once_some_of_which_never_arrive(workspace, id):
    """40 good, 20 broken, 10 copies of one, 30 cut off: every verdict is right, and nothing is left behind."""
    served = app(workspace)
    files = [(f"good {n}.png", encoded(n), False) for n in range(40)]
    files += [(f"broken {n}.png", encoded(n)[:-400], False) for n in range(20)]
    files += [(f"copy {n}.bmp", encoded(100, "BMP"), False) for n in range(10)]
    files += [(f"cut {n}.png", encoded(200 + n), True) for n in range(30)]
    files.sort(key=lambda file: hash(file[1]))

    async def everything():
        return await asyncio.gather(
            *(request(served, id, name, [data[:2000], data[2000:]], cut=cut) for name, data, cut in files)
        )

    told = dict(zip((file[0] for file in files), asyncio.run(everything()), strict=True))
    verdicts = {name: answer["verdicts"][0] for name, (status, answer) in told.items() if status == 200}
    assert all(told[name][0] == (400 if name.startswith("cut") else 200) for name in told)
    assert all(verdicts[f"good {n}.png"]["accepted"] for n in range(40))
    assert all("broken PNG" in verdicts[f"broken {n}.png"]["reason"] for n in range(20))
    assert sum(verdicts[f"copy {n}.bmp"]["accepted"] for n in range(10)) == 1
    contents, _ = sound(dataset_of(workspace, id))
    assert sorted(picture.name for picture in contents.pictures if "good" in picture.name) == sorted(
        name for name in told if name.startswith("good")
    )
    assert len(contents.pictures) == 41
    assert len(contents.refused) == 29


def test_a_handler_that_is_cancelled_leaves_nothing(workspace, id):
    served = app(workspace)

    async def stopped():
        async def receive():
            await asyncio.sleep(60)

        async def send(_):
            pass

        scope = {
            "type": "http",
            "method": "POST",
            "path": f"/upload/{id}",
            "query_string": b"name=a.png",
            "headers": [],
        }
        task = asyncio.create_task(served({**scope, "http_version": "1.1"}, receive, send))
        folder = workspace.dataset(id) / ".incoming"
        for _ in range(200):
            await asyncio.sleep(0.01)
            if any(folder.glob("*/upload")):
                break
        assert any(folder.glob("*/upload"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    sound(dataset_of(workspace, id))
