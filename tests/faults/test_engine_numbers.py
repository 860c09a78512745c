"""A loss or gradient that is not finite moves nothing, is named by its files, and ends the run when it does not stop."""

from __future__ import annotations

import numpy as np
import pytest
from kill_harness import NO_PROOF, arrays, metrics, recipe

STEPS = 12


def run(server, tree, folder, cache, hooks):
    record = {"record_weights": str(folder / "weights")}
    return server.run(tree, folder, cache=cache, hooks={**NO_PROOF, **record, **hooks})


def after(folder, step):
    return arrays(folder / "weights" / f"{step}.safetensors")


def equal(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


def checkpoints_are_finite(folder):
    files = list((folder / "run").rglob("*.safetensors"))
    return all(np.isfinite(a).all() for file in files for a in arrays(file).values())


def small(pictures, **changes):
    return recipe(pictures, **{"train.steps": STEPS, "sample": None, **changes})


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("bad", [[5], [4, 5, 6]])
def test_a_bad_gradient_moves_nothing(value, bad, fork_server, shared_cache, drawn_pictures, tmp_path):
    end = run(
        fork_server, small(drawn_pictures), tmp_path, shared_cache, {"bad_gradients": {"steps": bad, "value": value}}
    )
    assert end.code == 0, end
    for step in range(1, STEPS):
        assert equal(after(tmp_path, step), after(tmp_path, step - 1)) == (step in bad)
    state = arrays(tmp_path / "run" / "checkpoints" / str(STEPS) / "optimizer.safetensors")
    assert {float(v.item()) for k, v in state.items() if k.endswith(".step")} == {STEPS - len(bad)}
    assert metrics(tmp_path / "run")[STEPS, "skipped_steps"] == len(bad)
    assert checkpoints_are_finite(tmp_path)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"step {bad[-1] + 1} was not finite and moved nothing" in log
    assert ".png" in log[log.index("was not finite") :].splitlines()[0]


def test_ten_in_a_row_end_the_run(fork_server, shared_cache, drawn_pictures, tmp_path):
    bad = {"steps": list(range(1, 11)), "value": "nan"}
    end = run(fork_server, small(drawn_pictures), tmp_path, shared_cache, {"bad_gradients": bad})
    assert (end.code, end.kind) == (65, "numbers"), end
    assert ".png" in end.error
    assert "steps in a row" in end.error
    assert max(int(p.stem) for p in (tmp_path / "weights").iterdir()) <= 5 + 3, "at most a log interval too late"
    assert checkpoints_are_finite(tmp_path)
    assert not (tmp_path / "run" / "adapter").exists()


def test_the_limit_is_the_recipes(fork_server, shared_cache, drawn_pictures, tmp_path):
    bad = {"bad_gradients": {"steps": [1, 2, 3], "value": "nan"}}
    tree = small(drawn_pictures, **{"train.max_bad_steps": 3})
    assert run(fork_server, tree, tmp_path, shared_cache, bad).code == 65


def test_bad_latents_are_named(fork_server, shared_cache, drawn_pictures, tmp_path):
    """One of five pictures reads back as NaN: the steps that see it are skipped and it is named."""
    end = run(fork_server, small(drawn_pictures), tmp_path, shared_cache, {"bad_latents": "3.png"})
    assert end.code == 0, end
    skipped = [s for s in range(1, STEPS) if equal(after(tmp_path, s), after(tmp_path, s - 1))]
    first = not any(value.any() for name, value in after(tmp_path, 0).items() if "lora_B" in name)
    assert len(skipped) + first == STEPS // 3, "five units in steps of two: one step in three sees the picture"
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert all("3.png" in line for line in log if "was not finite" in line)
    assert any("3.png" in line for line in log)
    assert checkpoints_are_finite(tmp_path)


def test_a_resumed_run_still_counts(fork_server, shared_cache, drawn_pictures, tmp_path):
    """Four bad steps before a kill and one after it are five in a row."""
    bad = {"bad_gradients": {"steps": [0, 1, 2, 3, 4], "value": "nan"}}
    tree = small(drawn_pictures, **{"log.every": 5})
    hooks = {**NO_PROOF, **bad}
    whole = fork_server.run(tree, tmp_path / "whole", cache=shared_cache, hooks=hooks)
    assert whole.code == 65, whole
    assert fork_server.run(tree, tmp_path, cache=shared_cache, hooks={**hooks, "die_once_saved": 4}).killed
    again = fork_server.run(tree, tmp_path, cache=shared_cache, hooks=hooks)
    assert (again.code, again.error) == (65, whole.error)
