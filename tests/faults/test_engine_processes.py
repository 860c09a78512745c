"""Several processes, or another split of the same step, train the same adapter; one run directory has one owner."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kill_harness import NO_PROOF, arrays, leftovers, metrics, recipe

LORA = [{"name": "lora", "rank": 2, "where": "cross_attention", "text_encoder_lr": 1e-4}]
"""Without dropout, whose masks belong to a micro-batch."""


def small(pictures, *, batch, accumulate, steps=20, **changes):
    keys = {"adapters": LORA, "train.lr": 1e-4, "train.batch": batch, "train.accumulate": accumulate}
    return recipe(pictures, **keys, **{"train.steps": steps, "log.every": 1, "sample": None, **changes})


def close(one: Path, other: Path, steps: int) -> None:
    """The adapters and every loss agree to 1e-5, and something was learned."""
    name = "adapter/pytorch_lora_weights.safetensors"
    a, b = arrays(one / "run" / name), arrays(other / "run" / name)
    assert a.keys() == b.keys()
    assert max(np.abs(v).max() for k, v in a.items() if "lora_B" in k or "lora.up" in k) > 1e-4
    assert max(np.abs(a[k] - b[k]).max() for k in a) <= 1e-5
    x, y = metrics(one / "run"), metrics(other / "run")
    assert x.keys() == y.keys()
    assert {step for step, _ in x} == set(range(1, steps + 1))
    for key, value in x.items():
        assert value == pytest.approx(y[key], rel=1e-5, abs=1e-5), key


def together(servers, tree, folder, cache, **job):
    """One run by as many processes as there are servers; gives how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(rank):
        environ = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(servers), "LOCAL_WORLD_SIZE": len(servers)}
        environ = {**environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        note = {"note": str(folder / f"note{rank}.json"), "environ": {k: str(v) for k, v in environ.items()}}
        return servers[rank].run(tree, folder, cache=cache, hooks=NO_PROOF, **note, **job)

    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(start, range(len(servers))))


@pytest.mark.timeout(300)
def test_two_processes_are_one_with_twice_the_accumulation(
    fork_server, second_server, shared_cache, drawn_pictures, tmp_path
):
    """Five pictures in steps of four: the last step of an epoch is one unit, which only one process has."""
    tree = small(drawn_pictures, batch=1, accumulate=4)
    end = fork_server.run(tree, tmp_path / "one", cache=shared_cache, hooks=NO_PROOF)
    assert end.code == 0, end
    tree = small(drawn_pictures, batch=1, accumulate=2)
    ends = together([fork_server, second_server], tree, tmp_path / "two", shared_cache)
    assert [end.code for end in ends] == [0, 0], ends
    close(tmp_path / "one", tmp_path / "two", 20)
    run = tmp_path / "two" / "run"
    assert not leftovers(run)
    assert (run / "journal.jsonl").read_text().count('"done"') == 1
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len({(row["step"], row["name"]) for row in rows}) == len(rows), "each number once: only one process writes"


@pytest.mark.timeout(300)
def test_two_processes_stop_and_go_on(fork_server, second_server, shared_cache, drawn_pictures, tmp_path):
    """Killed together after a save, they go on to the same bits; three units a step leave one process idle at times."""
    tree = small(drawn_pictures, batch=1, accumulate=1, steps=9)
    servers = [fork_server, second_server]
    assert [end.code for end in together(servers, tree, tmp_path / "whole", shared_cache)] == [0, 0]
    kill = {"group": "steps", "step": 6, "delay_s": 0.0}
    ends = together(servers, tree, tmp_path / "killed", shared_cache, kill=kill)
    assert ends[0].killed
    assert ends[1].code != 0 or ends[1].killed
    assert [end.code for end in together(servers, tree, tmp_path / "killed", shared_cache)] == [0, 0]
    name = "run/adapter/pytorch_lora_weights.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("split", [(4, 2), (2, 4), (1, 8)])
def test_the_split_of_a_step(split, fork_server, shared_cache, drawn_pictures, tmp_path):
    """Eight units a step, three buckets, pictures seen three times an epoch: the split moves float error alone."""
    for name, (batch, accumulate) in {"whole": (8, 1), "split": split}.items():
        tree = small(drawn_pictures, batch=batch, accumulate=accumulate, **{"data.instance.repeats": 3})
        end = fork_server.run(tree, tmp_path / name, cache=shared_cache, hooks=NO_PROOF)
        assert end.code == 0, end
    close(tmp_path / "whole", tmp_path / "split", 20)


def test_a_second_start_in_one_directory(fork_server, second_server, shared_cache, drawn_pictures, tmp_path):
    """It ends at once with 75 and names the owner, who is not disturbed; a killed owner leaves no lock behind."""
    tree = small(drawn_pictures, batch=1, accumulate=1, steps=4)
    flag = tmp_path / "flag"
    hold = {"phase": "training", "event": 2, "flag": str(flag)}
    with ThreadPoolExecutor(1) as pool:
        owner = pool.submit(fork_server.run, tree, tmp_path, cache=shared_cache, hooks={**NO_PROOF, "hold_at": hold})
        deadline = time.monotonic() + 60
        while not flag.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        before = (tmp_path / "run" / "status.json").read_bytes()
        began = time.monotonic()
        second = second_server.run(tree, tmp_path, cache=shared_cache, note=str(tmp_path / "second.json"))
        took = time.monotonic() - began
        pid = json.loads(before)["pid"]
        flag.unlink()
        end = owner.result()
    assert (second.code, second.kind) == (75, "locked"), second
    assert f"process {pid} on " in second.error
    assert took < 5
    assert end.code == 0, end
    kill = {"group": "steps", "step": 2, "delay_s": 0.0}
    again = tmp_path / "again"
    assert fork_server.run(tree, again, cache=shared_cache, hooks=NO_PROOF, kill=kill).killed
    assert second_server.run(tree, again, cache=shared_cache, hooks=NO_PROOF).code == 0
