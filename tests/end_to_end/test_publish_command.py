"""`tuner publish` as a process of its own: the token reaches the Hub, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hub_stand_in import TOKEN, start
from outcomes import by_hand


@pytest.fixture(scope="module")
def hub():
    made, stop = start()
    yield made
    stop()


def publish(hub, place, *words, **env):
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(place / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TMPDIR": str(place / "tmp"),
        "HF_TOKEN": TOKEN,
    }
    (place / "tmp").mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | own | env
    command = [sys.executable, "-m", "tuner", "publish", "dog", "anna/dog", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment, check=False, timeout=120)


def everything(place) -> bytes:
    return b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())


def test_the_token_is_in_no_output_file_or_log(hub, tmp_path):
    run = by_hand(tmp_path / "runs" / "dog")
    done = publish(hub, tmp_path, "--json", HF_DEBUG="1", TUNER_DEBUG="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["private"] is True
    assert hub.tokens - {""} == {f"Bearer {TOKEN}"}
    hub.faults["/commit/"] = (403, {"X-Error-Message": f"{TOKEN} may not"}, {"error": TOKEN})
    (run / "adapter" / "dog.json").write_text("{}")
    failed = publish(hub, tmp_path, HF_DEBUG="1", TUNER_DEBUG="1")
    assert failed.returncode == 74, failed.stderr
    assert "may not write to anna/dog" in failed.stderr
    said = done.stdout + done.stderr + failed.stdout + failed.stderr
    assert TOKEN not in said
    assert TOKEN.encode() not in everything(tmp_path)
    hub.faults.clear()


def test_the_token_of_the_store_is_taken_and_stays_there(hub, tmp_path):
    by_hand(tmp_path / "runs" / "dog")
    (tmp_path / "hf").mkdir()
    store = tmp_path / "hf" / "token"
    store.write_text(TOKEN)
    done = publish(hub, tmp_path, HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    store.unlink()
    assert TOKEN.encode() not in everything(tmp_path)


def test_without_a_network_it_says_so(hub, tmp_path):
    by_hand(tmp_path / "runs" / "dog")
    done = publish(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE is set" in done.stderr


def test_an_answer_to_the_uploader_of_large_files_is_told_as_any_other(hub, tmp_path):
    """hf_xet speaks with the Hub itself; here it gets no further than asking whether it may."""
    by_hand(tmp_path / "runs" / "dog")
    hub.repos.clear()
    hub.faults["xet-write-token"] = 403
    done = publish(hub, tmp_path, HF_HUB_DISABLE_XET="0")
    hub.faults.clear()
    assert done.returncode == 74, done.stderr
    assert "this token may not write to anna/dog" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert TOKEN.encode() not in everything(tmp_path)
