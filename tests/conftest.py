"""What tests share: one thread, a cache of their own, and the toybox model."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports torch: one thread a worker, since the workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from models import load_sd15


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or fills the user's cache."""
    if "TUNER_CACHE" in os.environ:
        yield Path(os.environ["TUNER_CACHE"])
        return
    patch = pytest.MonkeyPatch()
    patch.setenv("TUNER_CACHE", str(tmp_path_factory.mktemp("tuner-cache")))
    yield Path(os.environ["TUNER_CACHE"])
    patch.undo()


@pytest.fixture(scope="session")
def sd15_folder(own_cache) -> Path:
    """The SD1.5-shaped toybox model in diffusers' layout. Read it, do not change it."""
    from tuner import toybox

    return toybox.folder("sd15")


@pytest.fixture
def sd15_model(sd15_folder):
    """A fresh toybox model in float32 on the CPU; the test may do what it likes with it."""
    return load_sd15("toybox")


@pytest.fixture(scope="session")
def sd35_folder(own_cache, tmp_path_factory) -> Path:
    """A tiny random SD3.5-shaped model in diffusers' layout. Read it, do not change it."""
    from tiny_sd35 import write_sd35

    return write_sd35(tmp_path_factory.mktemp("sd35") / "model")


@pytest.fixture
def sd35_model(sd35_folder):
    """A fresh tiny SD3.5-shaped model in float32 on the CPU; the test may do what it likes with it."""
    from tiny_sd35 import load_sd35

    return load_sd35(sd35_folder)
