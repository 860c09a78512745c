"""What the fault tests share: a server that forks runs, pictures, and caches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fork_server():
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    from kill_harness import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def seed_cache(tmp_path_factory) -> Path:
    """A cache with nothing in it. Copy it, do not fill it."""
    return tmp_path_factory.mktemp("seed-cache")


@pytest.fixture(scope="session")
def shared_cache(seed_cache, tmp_path_factory) -> Path:
    """A cache for runs whose caching is not what is tested."""
    import shutil

    place = tmp_path_factory.mktemp("shared") / "cache"
    shutil.copytree(seed_cache, place)
    return place


@pytest.fixture(scope="session")
def drawn_pictures(tmp_path_factory) -> Path:
    """Five drawn photos that fill more than two buckets at 32 px."""
    import shutil

    from photos import shaped

    place = tmp_path_factory.mktemp("photos") / "dog"
    shutil.copytree(shaped(), place)
    return place


@pytest.fixture(scope="session")
def second_server():
    """Another fork server, for two processes at once."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    from kill_harness import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def undisturbed(fork_server, shared_cache, drawn_pictures, tmp_path_factory) -> Path:
    """The folder of a run of nine steps that nothing happened to. Read it, do not change it."""
    from kill_harness import NO_PROOF, recipe

    folder = tmp_path_factory.mktemp("undisturbed")
    end = fork_server.run(recipe(drawn_pictures, **{"train.steps": 9}), folder, cache=shared_cache, hooks=NO_PROOF)
    assert end.code == 0, end
    return folder
