"""Nothing that is not in the recipe moves a bit: global generators, watchers, samples, threads, an earlier run."""

from __future__ import annotations

import numpy as np
import pytest
from kill_harness import NO_PROOF, arrays, recipe, unequal, weights

NINE = {"train.steps": 9}


def run(server, tree, folder, cache, *, hooks=None, **job):
    end = server.run(tree, folder, cache=cache, hooks={**NO_PROOF, **(hooks or {})}, **job)
    assert end.code == 0, end
    return weights(folder / "run")


@pytest.mark.parametrize(
    ("changes", "job"),
    [
        ({}, {"hooks": {"poison_generators": 1}}),
        ({"sample": None}, {}),
        ({"sample.every": 1, "sample.seed": 9}, {}),
        ({"save.every": 9, "save.keep": 1}, {}),
        ({}, {"unwatched": True}),
        ({}, {"hooks": {"no_prefetch": None}}),
        ({}, {"times": 2, "new": True}),
    ],
    ids=[
        "poisoned generators",
        "no samples",
        "samples each step",
        "saved once",
        "no watchers",
        "no prefetch",
        "second of a process",
    ],
)
def test_bitwise_equal(changes, job, undisturbed, fork_server, shared_cache, drawn_pictures, tmp_path):
    found = run(fork_server, recipe(drawn_pictures, **NINE, **changes), tmp_path, shared_cache, **job)
    assert not unequal(weights(undisturbed / "run"), found)


def test_a_global_generator_would_be_noticed(undisturbed, fork_server, shared_cache, drawn_pictures, tmp_path):
    """The poison works: a run that reads a global generator comes out differently under it."""
    hooks = {"noise_from_global_generator": None, "poison_generators": 1}
    found = run(fork_server, recipe(drawn_pictures, **NINE), tmp_path, shared_cache, hooks=hooks)
    assert unequal(weights(undisturbed / "run"), found)


def test_another_seed_is_another_run(undisturbed, fork_server, shared_cache, drawn_pictures, tmp_path):
    """The comparison can fail: else all of the above would say nothing."""
    found = run(fork_server, recipe(drawn_pictures, **NINE, **{"train.seed": 4}), tmp_path, shared_cache)
    assert any(name.startswith("adapter/") for name in unequal(weights(undisturbed / "run"), found))


def test_encoding_on_the_spot_gives_the_cached_latents(fork_server, shared_cache, drawn_pictures, tmp_path):
    """Without random crops and colours `cache: off` is the same training, up to what a batch does to the last bits."""
    for cache in ("disk", "off"):
        tree = recipe(drawn_pictures, **{"train.steps": 4, "data.cache": cache, "sample": None})
        hooks = {"record_latents": str(tmp_path / "latents" / cache)}
        run(fork_server, tree, tmp_path / cache, shared_cache, hooks=hooks)
    files = sorted(p.name for p in (tmp_path / "latents" / "disk").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "latents" / "off").iterdir())
    assert len(files) >= 6
    for name in files:
        one, other = (arrays(tmp_path / "latents" / cache / name)["latents"] for cache in ("disk", "off"))
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)
        assert one.std() > 0.1
