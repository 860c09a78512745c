"""The views of a run that was really made: by the command that the web UI starts, on the model that ships here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from view_parts import texts

from tuner.lines import read_metrics
from webui.views import adapter_files
from webui.views.compare import compare
from webui.views.monitor import Readers, monitor
from webui.views.recent import recent
from webui.views.results import results

PROMPTS = ["a photo of a <b>dog</b> & a cup", "a cup"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, own_cache) -> Path:
    """Six steps of a LoRA, with samples and validation every three."""
    place = tmp_path_factory.mktemp("runs") / "dog"
    words = ["run", "lora", "--rehearse", "--json", "--run-dir", str(place), "train.steps=6", "log.every=1",
             "save.every=3", "sample.every=3", "sample.steps=2", f"sample.prompts={json.dumps(PROMPTS)}",
             "validation.every=3", "validation.hold_out=0.2"]  # fmt: skip
    env = {**os.environ, "TUNER_CACHE": str(own_cache), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "tuner", *words], check=True, capture_output=True, env=env, timeout=500)
    return place


def test_the_monitor_tells_how_it_ended(run):
    view = monitor(run, None, Readers())
    assert None not in (view.head, view.curves, view.matrix, view.log)
    assert (view.head.state, view.head.share, view.head.progress) == ("done", 1.0, "6 of 6 steps")
    assert view.head.best.startswith("step ")
    assert view.log.lines[-1].text == "done"
    assert not view.curves.note


def test_its_curves_are_its_numbers(run):
    view = monitor(run, None, Readers())
    loss = view.curves.panel("loss")
    assert [line.name for line in loss.lines] == ["each interval", "smoothed", "validation"]
    table = read_metrics(run / "metrics.jsonl")
    assert loss.lines[0].points == [(step, row["loss"]) for step, row in table.items() if "loss" in row]
    assert loss.lines[2].points == [
        (step, row["validation_loss"]) for step, row in table.items() if "validation_loss" in row
    ]
    for panel in view.curves.panels:
        ET.fromstring(panel.svg())


def test_its_samples_are_all_there(run):
    table = monitor(run, None, Readers()).matrix
    assert [row.step for row in table.rows] == [6, 3, 0]
    assert table.prompts == tuple(PROMPTS)
    assert all(cell.href and cell.seed is not None for row in table.rows for cell in row.cells)
    assert table.notes == ()


def test_its_results_name_the_best_and_the_files(run):
    found = results(run)
    assert [(save.step, save.final) for save in found.saves] == [(6, True), (3, False)]
    status = json.loads((run / "status.json").read_bytes())
    assert found.best.step == status["best"]["step"]
    assert found.best.by == "validation"
    assert found.notes == ()
    for save in found.saves:
        files = {choice.tool: choice.file for choice in save.folder.choices}
        assert files["diffusers"] == "pytorch_lora_weights.safetensors"
        assert files["ComfyUI"] == "dog.safetensors"
        assert not any(file.problem for file in save.folder.files)


def test_its_code_is_code_and_names_its_files(run):
    found = adapter_files.code(run / "adapter")
    for block in found:
        compile(block.text, block.title, "exec")
        for line in block.text.splitlines():
            if "weight_name=" in line:
                name = line.split("weight_name=")[1].split('"')[1]
                assert (run / "adapter" / name).is_file()
    assert found[0].title == "In diffusers"


def test_it_is_in_the_list_and_can_be_compared(run):
    (one,) = recent(run.parent)
    assert (one.id, one.word, one.progress, one.about) == ("dog", "Done", "6 of 6 steps", "lora on sd15")
    assert one.sample == "/media/sample/dog/6/0"
    both = compare([run, run], Readers())
    assert both.notes == ()
    assert [panel.key for panel in both.panels] == ["loss", "validation_loss", "lr"]


def test_every_text_can_be_shown(run):
    for text in texts([monitor(run, None, Readers()), results(run), recent(run.parent)]):
        text.encode("utf-8")
