"""What a job can compute on, and what its process is told of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tuner
from webui.jobs import hardware
from webui.jobs.hardware import TOKENS, WITH_TOKEN, devices, environment, with_program


def cards(monkeypatch, tmp_path, count, *, visible=None):
    """A machine with so many GPUs, by their device files."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for name in (*(f"nvidia{n}" for n in range(count)), "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(hardware, "_DEVICE_FILES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(hardware.platform, "system", lambda: "Linux")


@pytest.mark.parametrize(
    ("count", "visible", "found"),
    [
        (0, None, ()),
        (2, None, ("cuda:0", "cuda:1")),
        (4, "2,3", ("cuda:0", "cuda:1")),
        (4, "", ()),
        (4, "-1", ()),
        (4, "1,9,2", ("cuda:0",)),
        (2, "GPU-8f1e", ("cuda:0",)),
        (0, "0", ()),
    ],
)
def test_the_gpus_are_those_that_cuda_would_use(monkeypatch, tmp_path, count, visible, found):
    cards(monkeypatch, tmp_path, count, visible=visible)
    assert devices() == (*found, "cpu")


def test_a_mac_has_its_own(monkeypatch, tmp_path):
    cards(monkeypatch, tmp_path, 0)
    monkeypatch.setattr(hardware.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(hardware.platform, "machine", lambda: "arm64")
    assert devices() == ("mps", "cpu")


def test_a_driver_without_an_answer_is_no_fault(monkeypatch, tmp_path):
    cards(monkeypatch, tmp_path, 1)

    class Library:
        NVMLError = RuntimeError

        @staticmethod
        def nvmlInit():
            raise RuntimeError("driver not loaded")

    monkeypatch.setitem(sys.modules, "pynvml", Library)
    assert devices() == ("cuda:0", "cpu")


@pytest.mark.parametrize(
    ("device", "visible", "seen"),
    [("cuda:1", None, "1"), ("cuda:1", "2,3", "3"), ("cpu", None, ""), ("none", "2,3", ""), ("cuda:7", None, "")],
)
def test_a_job_sees_its_own_gpu_only(monkeypatch, tmp_path, device, visible, seen):
    cards(monkeypatch, tmp_path, 4, visible=visible)
    base = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert environment(device, "train", base)["CUDA_VISIBLE_DEVICES"] == seen


def test_nothing_is_hidden_where_nothing_was_found(monkeypatch, tmp_path):
    cards(monkeypatch, tmp_path, 0)
    assert "CUDA_VISIBLE_DEVICES" not in environment("cpu", "train", {})


@pytest.mark.parametrize("kind", [*sorted(WITH_TOKEN), "quickstart", "export", "dataset", "anything"])
def test_the_token_is_for_jobs_that_need_it(kind):
    base = {**dict.fromkeys(TOKENS, "secret"), "PATH": "/bin"}
    env = environment("cpu", kind, base)
    assert env["PATH"] == "/bin"
    given = kind in WITH_TOKEN
    assert ("secret" in env.values()) is given
    assert ("HF_HUB_DISABLE_IMPLICIT_TOKEN" in env) is not given
    assert dict.fromkeys(TOKENS, "secret").items() <= base.items()


def test_the_same_program_is_found_from_another_folder(monkeypatch, tmp_path):
    home = str(Path(tuner.__file__).parents[1])
    monkeypatch.chdir(home)
    found = with_program({"PYTHONPATH": "."})["PYTHONPATH"].split(":")
    assert found == [home]
    installed = tmp_path / "site-packages" / "tuner" / "__init__.py"
    monkeypatch.setattr(tuner, "__file__", str(installed))
    assert "PYTHONPATH" not in with_program({})


def test_the_queue_and_its_processes_begin_without_what_is_heavy():
    heavy = ("torch", "diffusers", "transformers", "gradio", "pydantic", "numpy")
    code = (
        "import sys, webui.jobs, webui.jobs.worker, webui.jobs.starter, psutil\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
